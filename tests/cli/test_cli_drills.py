"""Five drills: something is wrong with a pipeline, and the screen alone says what and has it mended in at most five keys.

`ZPIPE_WRITE_DRILLS=1` puts the screens that were seen into docs/drills.md.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import needs
import pytest
from drill_screens import with_lasting_folder
from tmux import Tmux, monitor

PAGE = Path(__file__).parents[2] / "docs" / "drills.md"
MOST_KEYS = 5
SIZE = (110, 30)
HEAD = """# Drills

What the screen of `zpipe monitor` shows when something is wrong, and the keys that were pressed: at most five. The screens
are of real runs (`ZPIPE_WRITE_DRILLS=1 pytest -m stress tests/cli/test_cli_drills.py` writes this page).
"""
CONFIG = """
[pipeline]
name = "drill"
[telemetry]
interval = "500ms"
[stages.read]
plugin = "generate"
options = {{ rate = {rate} }}
[stages.work]
input = "read"
{work}
[stages.store]
input = "work"
plugin = "sqlite"
batch = {{ messages = 20, timeout = "200ms" }}
options = {{ path = "{folder}/out.db", table = "t", key = "id", columns = {{ id = "INTEGER", text = "TEXT" }} }}
"""
WORK = """
import time


def fine(payload):
    return {"id": payload["id"], "text": "x" * 100}


def picky(payload):
    if payload["id"] % 40 == 7:
        raise KeyError("customer")
    return fine(payload)


def slow(payload):
    time.sleep(0.05)
    return fine(payload)
"""
CALLING = """
plugin = "http"
workers = {{ count = 50 }}
limit = {{ kind = "fixed", max = {most} }}
options = {{ url = "{url}", method = "POST", field = "text" }}
"""
SERVICE = """
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.1)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
    print(server.server_port, flush=True)
    server.serve_forever()
"""
"""Serves any number of calls at once, and takes 0.1 s for each."""
written: dict[str, list[str]] = {}
pytestmark = [pytest.mark.stress, pytest.mark.needs("tmux")]


class Drill:
    """One run: its screen, and the keys that were pressed."""

    def __init__(self, config: Path, stack: ExitStack) -> None:
        self._config, self._stack = config, stack
        self.stages: dict[str, subprocess.Popen[bytes]] = {}
        for stage in ("store", "work", "read"):
            self.start(stage)
        command = monitor(config)
        self.terminal = Tmux(config.parent, command, *SIZE, TERM="screen-256color", LANG="C.UTF-8", PYTHONUTF8="1")
        stack.callback(self.terminal.close)
        self.keys: list[str] = []
        self.parts: list[str] = []

    def start(self, stage: str) -> None:
        command = [sys.executable, "-m", "zpipe", "stage", str(self._config), stage]
        process = self._stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        self._stack.callback(process.kill)
        self.stages[stage] = process

    def kill(self, stage: str) -> None:
        self.stages[stage].send_signal(signal.SIGKILL)
        self.stages[stage].wait()

    def see(self, words: str, *texts: str) -> None:
        """Waits until all of it is on the screen, and keeps the screen."""
        lines = self.terminal.wait(
            lambda lines: all(text in " ".join(" ".join(lines).split()) for text in texts), words
        )
        text = with_lasting_folder("\n".join(line.rstrip() for line in lines), str(self._config.parent))
        self.parts.append(f"{words}:\n\n```text\n{text}\n```\n")

    def press(self, *keys: str) -> None:
        self.keys += keys
        self.parts.append("Keys: " + " ".join(f"`{key}`" for key in keys) + "\n")
        for key in keys:
            self.terminal.press(key)


@contextmanager
def drill(name: str, home: Path, rate: int, work: str, folder: Path | None = None) -> Iterator[Drill]:
    (home / "work.py").write_text(WORK)
    path = home / "drill.toml"
    path.write_text(CONFIG.format(rate=rate, work=work, folder=folder or home))
    with ExitStack() as stack:
        made = Drill(path, stack)
        yield made
        assert len(made.keys) <= MOST_KEYS, made.keys
        written[name] = made.parts


def calling(function: str) -> str:
    return f'plugin = "python"\noptions = {{ function = "work.py:{function}" }}'


@pytest.fixture(scope="module", autouse=True)
def page() -> Iterator[None]:
    yield
    if os.environ.get("ZPIPE_WRITE_DRILLS"):
        texts = [f"## {name}\n\n" + "\n".join(parts) for name, parts in written.items()]
        text = "\n".join([HEAD, *texts])
        assert tempfile.gettempdir() not in text, "a temporary folder is on the page"
        PAGE.write_text(text)


def test_the_disk_of_a_sink_is_full(home: Path, small_disk: Callable[[], Path]) -> None:
    folder = small_disk()
    with drill("The disk of a sink is full", home, 40, calling("fine"), folder=folder) as seen:
        seen.terminal.wait(lambda lines: "read is the limit" in "\n".join(lines), "all is well")
        fill(folder / "ballast")
        seen.see("The sentence says which stage is held, and why", "store takes no more", "full")
        (folder / "ballast").unlink()
        seen.press("6")
        seen.see("Room was made: the stage goes on", "store.1 works again")
        seen.terminal.wait(lambda lines: "store takes no more" not in "\n".join(lines), "nothing is held any more")


def test_a_message_is_poison(home: Path) -> None:
    work = f'{calling("picky")}\nretry = {{ attempts = 2, delay = "50ms" }}'
    with drill("A message is poison", home, 40, work) as seen:
        seen.see("Dead letters stand in the header and on the box of the stage", "✖")
        seen.press("5")
        seen.see("They are folded by reason", "KeyError: 'customer'")
        seen.press("r")
        seen.see("It asks first, in numbers", "Replay", "100 a second")
        seen.press("y")
        seen.see("They are with their stage again", "to be replayed")


def test_an_http_service_is_slow(home: Path, service: str) -> None:
    """It takes more calls at once than `limit` lets through: that is raised in the config, which a running stage takes over."""
    with drill("An HTTP service is slow", home, 50, CALLING.format(most=2, url=service)) as seen:
        seen.see(
            "The sentence says what holds the stage up, what to do, and what that brings",
            *("work is the limit", "by its limit of calls at once (2 now)", "raise `limit.max`", "each call more"),
        )
        seen.press("3")
        seen.see("The stage: its limit, percentiles and histogram", "2 of 2 calls at once", "since its start")
        config = home / "drill.toml"
        config.write_text(config.read_text().replace("max = 2", "max = 20"))
        seen.stages["work"].send_signal(signal.SIGHUP)  # as `systemctl reload` does
        seen.press("1")
        seen.terminal.wait(lambda lines: "work, works" in " ".join(lines), "it keeps up, and not barely")
        seen.see("It was raised to 20, and the stage reloaded: it keeps up with the source", "read is the limit")


def test_a_flood(home: Path) -> None:
    with drill("A flood", home, 2000, calling("slow")) as seen:
        seen.see("The link before the limit fills", "work is the limit", "read blocked")
        seen.press("4")
        seen.see("Its depth over time, with its bound", "read → work", "at the sender")
        seen.press("1", "[", "p")
        seen.see("It asks first, in numbers", "Pause read?")
        seen.press("y")
        seen.see("The source is paused, and the rest is worked off", "◐ read")


def test_a_stage_is_killed(home: Path) -> None:
    with drill("A stage is killed", home, 40, calling("fine")) as seen:
        seen.see("All run", "read is the limit")
        seen.kill("store")
        seen.see("The sentence says who is silent, and what to do", "store is silent", "restart store")
        seen.press("6")
        seen.see("And since when", "who and what happened", "store.1 is silent")
        seen.start("store")
        seen.press("1")
        seen.see("It was started again: what waited for it is taken", "● store", "read is the limit")


@pytest.fixture
def service() -> Iterator[str]:
    """A slow HTTP service, a process of its own."""
    with subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        process.kill()


def fill(path: Path) -> None:
    """Writes until nothing more fits."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


@pytest.fixture
def small_disk(home: Path) -> Iterator[Callable[[], Path]]:
    """A tmpfs that a file fills, so that its removal makes room."""
    needs.skip_without("mounts")
    folder = home / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "zpipe-test", str(folder)], check=True)

    yield lambda: folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
