"""The plugins of examples/: short, typed, and each does what it says. (Windows under kill -9 are in tests/e2e.)"""

from __future__ import annotations

import asyncio
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from zpipe import Context, Message, Reject, Throttled, plugin_loading

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def plugin(name: str) -> Any:
    """The object that a stage with this example would have."""
    hooks = plugin_loading.load(f"./{name}.py", EXAMPLES).hooks
    return next(iter(hooks.values())).__self__


def context(options: Any, folder: Path, **more: Any) -> Context:
    return Context("p", "s", 1, "1", options, folder, folder, logging.getLogger("t"), **more)


def test_there_are_five_of_at_most_forty_lines() -> None:
    assert NAMES == ["ask", "postgres", "split", "tail", "windows"]
    for name in NAMES:
        assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 40, name


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_plugin(name: str) -> None:
    assert plugin(name)


class Looks(threading.Event):
    """Of a source that waits between two of them."""

    def __init__(self) -> None:
        super().__init__()
        self._left = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self._left.release()
        return super().wait(timeout)

    def looks(self, count: int) -> None:
        """Until there were so many more."""
        while self._left.acquire(blocking=False):
            pass
        assert all(self._left.acquire(timeout=60) for _ in range(count))


class TailRun:
    """The source on a thread of its own: what it has yielded so far."""

    def __init__(self, folder: Path, position: Any = None) -> None:
        tail = plugin("tail")
        options = plugin_loading.load("./tail.py", EXAMPLES).options_type
        assert options is not None
        self.context = context(options("log", 0.01), folder, position=position, stopping=Looks())
        self.found: list[Any] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=[tail])
        self._thread.start()

    def _run(self, tail: Any) -> None:
        for item in tail.source(self.context):
            with self._changed:
                self.found.append(item)
                self._changed.notify()

    def lines(self, count: int) -> list[str]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.found) >= count, 60)
        return [payload["line"] for _, payload in self.found]

    def end(self) -> None:
        self.context.stopping.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_tail_follows_rotates_and_goes_on_where_it_was(tmp_path: Path) -> None:
    log = tmp_path / "log"
    run = TailRun(tmp_path)
    try:
        append(log, "one\ntwo\nhal")
        assert run.lines(2) == ["one", "two"]
        append(log, "f\n")
        assert run.lines(3) == ["one", "two", "half"]
        log.rename(tmp_path / "log.1")
        append(tmp_path / "log.1", "late\n")
        append(log, "new\n")
        assert run.lines(5)[-1] == "new"
    finally:
        run.end()
    position = run.found[-1][0]
    append(log, "after\n")
    again = TailRun(tmp_path, position)
    try:
        assert again.lines(1) == ["after"]
    finally:
        again.end()


def test_tail_reads_what_is_written_to_a_file_after_it_was_renamed(tmp_path: Path) -> None:
    """Its writer goes on with it until it has begun the next one."""
    log = tmp_path / "log"
    append(log, "one\n")
    run = TailRun(tmp_path)
    try:
        run.lines(1)
        log.rename(tmp_path / "log.1")
        run.context.stopping.looks(3)  # type: ignore[attr-defined]
        append(tmp_path / "log.1", "late\n")
        append(log, "new\n")
        assert run.lines(3) == ["one", "late", "new"]
    finally:
        run.end()


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        code = {"gone": 404, "busy": 429, "broken": 500}.get(self.path.rpartition("/")[2], 200)
        self.send_response(code)
        self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(b'{"ok": true}')

    def log_message(self, *_: Any) -> None:
        pass


def test_ask(tmp_path: Path) -> None:
    ask = plugin("ask")
    options = plugin_loading.load("./ask.py", EXAMPLES).options_type
    assert options is not None

    async def use(url: str) -> None:
        here = context(options(url), tmp_path)
        await ask.open(here)
        assert await ask.process(Message({"id": 5}), here) == {"id": 5, "answer": {"ok": True}}
        with pytest.raises(Reject, match="knows no gone"):
            await ask.process(Message({"id": "gone"}), here)
        with pytest.raises(Throttled) as throttled:
            await ask.process(Message({"id": "busy"}), here)
        assert throttled.value.retry_after == 7
        with pytest.raises(Exception, match="500"):
            await ask.process(Message({"id": "broken"}), here)
        await ask.close(here)

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            asyncio.run(use(f"http://127.0.0.1:{server.server_port}/items/"))
        finally:
            server.shutdown()
            thread.join()


def test_split(tmp_path: Path) -> None:
    options = plugin_loading.load("./split.py", EXAMPLES).options_type
    assert options is not None
    here = context(options(without=("the",)), tmp_path)
    made = list(plugin("split").process(Message({"text": "the 7 samurai"}), here))
    assert [(one.payload, one.outlet) if isinstance(one, Message) else one for one in made] == [
        (7, "numbers"),
        "samurai",
    ]
    assert plugin("split").outlets(here.options) == ("numbers",)


def test_windows_count_what_is_whole(tmp_path: Path) -> None:
    options = plugin_loading.load("./windows.py", EXAMPLES).options_type
    assert options is not None
    windows, here = plugin("windows"), context(options(3), tmp_path)
    messages = [Message({"id": n}) for n in (0, 1, 1, 2, 3)]
    made = [windows.process(message, here) for message in messages]
    assert made[:3] == [None] * 3 and made[3].output == {"window": 0, "count": 3, "sum": 3}
    assert made[3].messages == messages[:4] and made[4] is None
    here.leaving = True
    assert list(windows.flush(here)) == [], "what an instance that leaves holds is its next life's"
