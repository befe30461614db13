"""`zpipe.testing.stage`, `read`, `check_plugin` and the fixtures: what a plugin's author sees of one plugin, and how soon."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import zpipe
from zpipe import DROP, Context, Message, Reject, Retry, Throttled, hookimpl, many
from zpipe.errors import ConfigError, OperatorError
from zpipe.messages import BadRecord
from zpipe.testing import check_plugin, load_fixture, make_context, read, stage

FLAKY = """
from zpipe import Reject, hookimpl

failed = set()

@hookimpl
def zpipe_process(message):
    if message.payload == "bad":
        raise Reject("no good")
    if message.payload == "later" and message.id not in failed:
        failed.add(message.id)
        raise OSError("gone")
    return {"seen": message.payload}
"""


def plugin(**hooks: Any) -> Any:
    """An object with these hooks."""
    return SimpleNamespace(
        **{f"zpipe_{name}": hookimpl(hook, specname=f"zpipe_{name}") for name, hook in hooks.items()}
    )


@pytest.fixture
def flaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flaky.py").write_text(FLAKY)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("flaky")
def test_a_retry_and_a_rejection() -> None:
    with stage("./flaky.py") as s:
        later, bad = s.send("later"), s.send("bad")
        assert (s.out, s.attempts[later], s.attempts[bad]) == ([], 1, 1)
        s.advance("5s")
        assert (s.out, s.attempts[later]) == ([{"seen": "later"}], 2)
        assert [(dead.reason, dead.payload, dead.id) for dead in s.dead] == [("no good", "bad", bad)]


@pytest.mark.usefixtures("flaky")
def test_such_a_test_takes_a_fifth_of_a_second_at_most() -> None:
    """Of processor time, so that a machine that is busy changes nothing. The least of some runs is what it costs."""
    costs = []
    for _ in range(5):
        began = time.process_time()
        with stage("./flaky.py") as s:
            s.send("later")
            s.send("bad")
            s.advance("5s")
        costs.append(time.process_time() - began)
    assert min(costs) < 0.2


def test_what_comes_out_has_ids_headers_and_outlets() -> None:
    def process(message: Message, context: Context) -> Any:
        match message.payload:
            case "many":
                return many([1, 2])
            case "drop":
                return DROP
            case "aside":
                return Message(0, outlet="aside")
        return message.payload

    with stage(plugin(process=process, outlets=lambda: ("aside",))) as s:
        ids = s.send_many(["many", "drop", "aside", Message("own", id="mine", headers={"h": 1})])
        assert ids == ["test:0", "test:1", "test:2", "mine"]
        assert sorted((m.id, m.payload, m.outlet) for m in s.sent if m.id != "mine") == [
            ("test:0.0", 1, ""),
            ("test:0.1", 2, ""),
            ("test:2", 0, "aside"),
        ]
        [own] = [m for m in s.sent if m.id == "mine"]
        assert (own.payload, own.headers) == ("own", {"h": 1})
        assert s.filtered == 1


def test_time_passes_only_as_the_test_says() -> None:
    called: set[str] = set()

    def process(message: Message, context: Context) -> Any:
        if message.id not in called:
            called.add(message.id)
            raise Retry(60.0) if message.payload == "retry" else Throttled(300.0)
        return message.payload

    began = time.monotonic()
    with stage(plugin(process=process)) as s:
        s.send_many(["retry", "throttled"])
        s.advance("59s")
        assert s.out == []
        s.advance("20s")
        assert s.out == ["retry"]
        s.advance("10m")
        assert s.out == ["retry", "throttled"]
    assert time.monotonic() - began < 60


def test_batches_are_made_by_number_and_by_time() -> None:
    @hookimpl
    def zpipe_process_batch(messages: list[Message]) -> list[int]:
        return [len(messages)] * len(messages)

    with stage(SimpleNamespace(zpipe_process_batch=zpipe_process_batch), batch=3) as s:
        s.send_many("abcd")
        assert s.out == [3, 3, 3]
        s.advance("2s")
        assert s.out == [3, 3, 3, 1]
        s.send("e")
        s.drain()
        assert s.out == [3, 3, 3, 1, 1]


def test_a_killed_stage_is_given_again_what_it_had_not_finished() -> None:
    opened: list[Context] = []

    def process(message: Message, context: Context) -> Any:
        if message.payload == "wait" and len(opened) == 1:
            raise Retry(600.0)
        return [message.payload, message.attempt]

    with stage(plugin(process=process, open=lambda context: opened.append(context))) as s:
        s.send_many(["done", "wait"])
        assert s.out == [["done", 1]]
        s.kill()
        assert s.out == [["done", 1], ["wait", 2]]
        s.drain()
    assert len(opened) == 2


def test_open_and_close_come_in_pairs_unless_it_is_killed() -> None:
    calls: list[str] = []
    hooks = {
        "open": lambda context: calls.append("open"),
        "close": lambda context: calls.append("close"),
        "process": lambda message, context: message.payload,
    }
    with stage(plugin(**hooks)) as s:
        s.kill()
        s.drain()
    assert calls == ["open", "open", "close"]
    calls.clear()
    with stage(plugin(**hooks)):
        pass
    assert calls == ["open", "close"]


def test_async_hooks_wait_on_the_virtual_clock() -> None:
    async def process(message: Message, context: Context) -> Any:
        async with asyncio.timeout(7200):
            await asyncio.sleep(3600)
        return await asyncio.to_thread(lambda: message.payload)

    began = time.monotonic()
    with stage(plugin(process=process), workers=5) as s:
        s.send_many([1, 2])
        assert s.out == [1, 2]
    assert time.monotonic() - began < 60


def test_a_class_with_options() -> None:
    @dataclass
    class Options:
        by: int
        tags: list[str]

    class Scale(zpipe.Map[Options]):
        def process(self, message: Message, context: Context[Options]) -> Any:
            return [message.payload * context.options.by, context.options.tags, str(context.config_dir)]

    sys.modules[__name__].__dict__.update(Options=Options)  # a dataclass finds the types of its fields by its module
    for options in ({"by": 3, "tags": ["${a}", '"']}, Options(3, ["${a}", '"'])):
        with stage(Scale, options, folder="/") as s:
            s.send(2)
            assert s.out == [[6, ["${a}", '"'], "/"]]
    with pytest.raises(ConfigError, match=r"stages\.stage\.options\.bi: is not an option here; allowed: by, tags"):
        stage(Scale, {"bi": 3, "tags": []})


def test_a_last_stage_and_one_that_ends() -> None:
    stored = []

    def process(message: Message, context: Context) -> None:
        assert context.last
        if message.payload == "full":
            raise OperatorError("the disk is full")
        stored.append(message.payload)

    with stage(plugin(process=process), last=True) as s:
        s.send(1)
        assert (stored, s.out) == ([1], [])
        with pytest.raises(OperatorError, match="the disk is full"):
            s.send("full")


def test_other_keys_of_a_stage() -> None:
    def process(message: Message, context: Context) -> None:
        raise ValueError("always")

    with stage(plugin(process=process), retry={"attempts": 2, "delay": "1m"}) as s:
        id = s.send(1)
        s.advance("1m")
        assert [(dead.reason, dead.attempts) for dead in s.dead] == [("ValueError: always", 2)]
        assert s.attempts[id] == 2 and "in process" in s.dead[0].traceback


def test_messages_of_a_tap_are_sent_again(tmp_path: Path) -> None:
    (tmp_path / "taken.ndjson").write_text(
        '{"id": "read:7", "payload": {"a": {"$bytes": "AA=="}}, "headers": {"h": 1}}\n'
    )
    with stage(plugin(process=lambda message, context: message.payload)) as s:
        s.send_many(load_fixture(tmp_path / "taken.ndjson"))
        assert [(m.id, m.payload, m.headers) for m in s.sent] == [("read:7", {"a": b"\0"}, {"h": 1})]


def test_a_plugin_that_is_installed() -> None:
    with stage("python", {"function": "builtins:str"}) as s:
        s.send(5)
        assert s.out == ["5"]


def test_the_fixtures(zpipe_stage: Any, zpipe_context: Any, tmp_path: Path) -> None:
    s = zpipe_stage("ndjson", {"path": "out.ndjson"}, last=True)
    s.send({"a": 1})
    assert (tmp_path / "out.ndjson").read_text() == '{"a":1}\n'
    assert zpipe_context({"x": 1}, last=True).config_dir == tmp_path


def windows(per: int) -> Any:
    """Counts messages: one output of so many, of all that there are at a tick, or at the end."""

    class Windows(zpipe.Map[None]):
        def open(self, context: Context) -> None:
            self._held: list[Message] = []

        def process(self, message: Message, context: Context) -> Any:
            context.hold(message)
            self._held.append(message)
            return self._released(context) if len(self._held) >= per else None

        def tick(self, context: Context) -> Any:
            return self._released(context)

        def flush(self, context: Context) -> Any:
            return self._released(context)

        def _released(self, context: Context) -> Any:
            held, self._held = self._held, []
            return context.release([m.payload for m in held], held) if held else None

    return Windows


def test_windows_close_by_number_by_a_tick_and_at_the_end() -> None:
    with stage(windows(3), tick="1m") as s:
        s.send_many([1, 2, 3, 4])
        assert s.out == [[1, 2, 3]]
        s.advance("90s")
        assert s.out == [[1, 2, 3], [4]]
        s.send(5)
        s.kill()
        s.send(6)
        s.drain()
        assert s.out == [[1, 2, 3], [4], [5, 6]], "what is held is delivered again"


def test_a_window_loses_nothing_wherever_it_is_killed() -> None:
    """What was finished a moment before may come again, as in life: producers hear of it at a heartbeat at the latest."""
    for at in range(7):
        with stage(windows(3)) as s:
            s.send_many(range(at))
            s.kill()
            s.send_many(range(at, 7))
            s.drain()
            assert {n for window in s.out for n in window} == set(range(7))


# Sources


def numbers(context: Context) -> Iterator[Any]:
    for n in range(0 if context.position is None else context.position + 1, 5):
        yield (n, BadRecord("odd", "three")) if n == 3 else (n, n * n)
    while not context.stopping.wait(1.0):
        yield 1 / 0


def test_a_source_is_read_from_a_position() -> None:
    found = read(plugin(source=numbers))
    assert [(m.position, m.payload) for m in found if m.position != 3] == [(0, 0), (1, 1), (2, 4), (4, 16)]
    assert isinstance(found[3].payload, BadRecord)
    assert [m.position for m in read(plugin(source=numbers), position=2)] == [3, 4]
    assert [m.position for m in read(plugin(source=numbers), limit=2)] == [0, 1]
    assert [m.payload for m in read("generate", {"count": 2}, 0)] == [{"id": 1}]
    with pytest.raises(TypeError, match="yields \\(position, payload\\) or a Message, not int"):
        read(plugin(source=lambda context: iter([1])))


def test_an_async_source_is_read() -> None:
    async def source(context: Context) -> Any:
        for n in range(3):
            await asyncio.sleep(60)
            yield n, n
        await asyncio.Event().wait()

    assert [m.payload for m in read(plugin(source=source))] == [0, 1, 2]


# check_plugin


def test_sound_plugins_pass() -> None:
    check_plugin(plugin(source=numbers))
    check_plugin("python", {"function": "builtins:str"}, [1, {"a": 2}], batches=False)
    check_plugin(
        plugin(
            process=lambda message, context: many([1, 2]),
            process_batch=lambda messages, context: [m.payload for m in messages],
        ),
        payloads=["a"],
    )
    check_plugin("ndjson", {"path": "/dev/null"}, [{"a": 1}], last=True)


def _forgetful(context: Context) -> Iterator[Any]:
    yield from ((n, n) for n in range(3))


def _repeating(context: Context) -> Iterator[Any]:
    yield from ((1, "a"), (1, "b"))


def _by_chance(message: Message, context: Context) -> Any:
    return Message(message.payload, id=str(time.perf_counter_ns()))


def _never(message: Message, context: Context) -> Any:
    raise Reject("never")


def _short(messages: list[Message], context: Context) -> Any:
    return [message.payload for message in messages[:3]]


@pytest.mark.parametrize(
    ("hooks", "payloads", "said"),
    [
        ({"source": _forgetful}, (), "after position 0 it does not give what it gave there before"),
        ({"source": _repeating}, (), "two messages have the same position"),
        ({"process": _by_chance}, ["a"], "after a kill it makes other messages than without, or with other ids"),
        ({"process": _never}, ["a"], "zpipe_process: 'a' is a dead letter: never"),
        ({"process": _never}, [], "give some payloads"),
        (
            {"process_batch": _short},
            ["a"],
            "batch, with 7: the call for several messages fails, though that for each of",
        ),
    ],
)
def test_what_is_unsound_is_told(hooks: dict[str, Any], payloads: list[Any], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_plugin(plugin(**hooks), payloads=payloads)


def test_a_context_for_a_hook() -> None:
    context = make_context("options", position=3, last=True)
    assert (context.options, context.position, context.last, context.config_dir) == ("options", 3, True, Path.cwd())


@dataclass
class Secretive:
    token: zpipe.Secret
    more: dict[str, zpipe.Secret] | None = None
    wait: zpipe.Duration = 1.0


class Reveal(zpipe.Map[Secretive]):
    def process(self, message: Message, context: Context[Secretive]) -> Any:
        options = context.options
        return [options.token.reveal(), *(one.reveal() for one in (options.more or {}).values()), options.wait]


def test_secrets_are_given_as_such() -> None:
    a, b = zpipe.Secret("a"), zpipe.Secret('${b} "')
    for options in (Secretive(a, {"b": b}), {"token": a, "more": {"b": b}, "wait": "1s"}):
        with stage(Reveal, options) as s:
            s.send({})
        assert s.out == [["a", '${b} "', 1.0]]
    with pytest.raises(ConfigError, match="token: must be a secret"):
        stage(Reveal, {"token": "a"})
