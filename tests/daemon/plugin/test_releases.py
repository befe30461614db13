"""What a call that holds and releases messages comes to, and what it must not do."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zpipe import DROP, Context, Message, many
from zpipe.core.policy import LinkPolicy
from zpipe.core.wire import section
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Slice
from zpipe.core.work.task import CallHistory, Result, Task, Verdict
from zpipe.daemon.plugin.runner import Runner
from zpipe.daemon.plugin.task_run import StageLinks
from zpipe.daemon.storage.call_journal import CallSlot
from zpipe.hookspecs import Holds


class Calls:
    """Tasks of a plugin, one after another."""

    def __init__(self, hook: str, function: Callable[..., Any], last: bool = False, holds: Holds | None = None) -> None:
        self.context = Context("p", "s", 1, "1", None, Path(), Path(), logging.getLogger("t"), last=last)
        if holds is not None:
            self.context.holds = holds
        self._hooks = {hook: function}
        self._number = 0

    def run(self, *ids: str, hook: str = "", batch: bool = False) -> Result:
        self._number += 1
        body = section.encode([*ids], [float(n) for n in range(1, len(ids) + 1)], [*ids], None, "cbor")
        one = Section(body, len(ids))
        slices = [Slice(Delivery([one], lambda _: None), one, 0, 0, len(ids), 0.0)] if ids else []
        task = Task(self._number, slices, CallHistory(), batch or bool(hook), hook=hook)
        work = Runner(self._hooks, self.context, LinkPolicy(), StageLinks(("side",))).begin(
            task, CallSlot(memoryview(bytearray(1024)))
        )
        step = work.advance()
        while not isinstance(step, Result):
            step = work.advance(iter(collect(step)))
        return step


def collect(step: AsyncIterator[Any]) -> list[Any]:
    async def all_of() -> list[Any]:
        return [one async for one in step]

    import asyncio

    return asyncio.run(all_of())


def sent(result: Result) -> list[tuple[str, Any, str]]:
    assert result.releases is not None
    found = []
    for chunk in result.releases.chunks:
        columns = Section(chunk.body, chunk.messages).columns()
        found += [(id, payload, chunk.outlet) for id, payload in zip(columns.ids, columns.payloads, strict=True)]
    return found


def test_a_window_over_several_calls() -> None:
    window: list[Message] = []

    def process(message: Message, context: Context) -> Any:
        context.hold(message)
        window.append(message)
        if len(window) == 3:
            taken = window.copy()
            window.clear()
            return context.release([m.payload for m in taken], taken)
        return None

    calls = Calls("zpipe_process", process)
    first = calls.run("a", "b")
    assert (first.held, first.releases, first.failures, first.chunks, first.filtered) == ([0, 1], None, [], [], 0)
    second = calls.run("c", "d")
    assert second.held == [0, 1] and second.releases is not None
    assert second.releases.groups == [[(1, 0), (1, 1), (2, 0)]]
    assert sent(second) == [("a~3.0", ["a", "b", "c"], "")]
    assert list(calls.context.holds.kept) == [id(window[0])], "the last one is still held, and nothing else is kept"


def test_a_tick_and_a_flush_release_what_calls_have_held() -> None:
    held: list[Message] = []

    def tick(context: Context) -> Iterator[Any]:
        yield context.release(many([1, Message(2, outlet="side")]), held[:1])
        yield context.release(DROP, held[1:])
        yield Message("none", id="mine")

    calls = Calls("zpipe_tick", tick)
    calls._hooks["zpipe_process"] = lambda message, context: (held.append(message), context.hold(message))[1]
    assert calls.run("a", "b", "c").held == [0, 1, 2]
    result = calls.run(hook="tick")
    assert result.releases is not None and result.failures == []
    assert result.releases.groups == [[(1, 0)], [(1, 1), (1, 2)], []] and result.releases.dropped == {1}
    assert sorted(sent(result)) == [("a~1.0", 1, ""), ("a~1.1", 2, "side"), ("mine", "none", "")]
    assert calls.context.holds.kept == {}


def test_an_async_flush() -> None:
    async def flush(context: Context) -> AsyncIterator[Any]:
        yield Message("x", id="1")

    assert sent(Calls("zpipe_flush", flush).run(hook="flush")) == [("1", "x", "")]


def test_what_was_released_before_a_hook_failed_stays_so() -> None:
    def tick(context: Context) -> Iterator[Any]:
        yield Message("x", id="1")
        raise RuntimeError("later")

    result = Calls("zpipe_tick", tick).run(hook="tick")
    assert sent(result) == [("1", "x", "")] and "later" in result.failures[0].reason


def test_a_message_whose_call_fails_is_not_held() -> None:
    def process(message: Message, context: Context) -> Any:
        context.hold(message)
        if message.payload == "b":
            raise RuntimeError

    calls = Calls("zpipe_process", process)
    result = calls.run("a", "b")
    assert result.held == [0] and [failure.index for failure in result.failures] == [1]
    assert not calls.context.holds.new


def test_a_batch_is_held_and_a_last_stage_releases_without_outputs() -> None:
    def batch(messages: list[Message], context: Context) -> Any:
        for message in messages:
            context.hold(message)

    calls = Calls("zpipe_process_batch", batch)
    result = calls.run("a", "b", batch=True)
    assert (result.held, result.failures) == ([0, 1], [])
    kept = [message for message, _ in calls.context.holds.kept.values()]
    calls._hooks["zpipe_flush"] = lambda context: context.release({"n": 2}, kept)
    calls.context.last = True
    flushed = calls.run(hook="flush").releases
    assert flushed is not None and (flushed.groups, flushed.chunks) == ([[(1, 0), (1, 1)]], [])


def test_an_output_that_cannot_be_sent_fails_its_group_alone() -> None:
    def process(message: Message, context: Context) -> Any:
        return context.release({"set": {1}} if message.payload == "a" else 1, [message])

    result = Calls("zpipe_process", process).run("a", "b")
    assert result.releases is not None and [failure.index for failure in result.releases.failures] == [0]
    assert sent(result) == [("b~1.0", 1, "")]


@pytest.mark.parametrize(
    ("process", "reason"),
    [
        (lambda m, c: (c.hold(m), m.payload)[1], "the message is held, and has outputs of its own"),
        (lambda m, c: c.release(1, [Message(2, id="other")]), "not held: 'other'"),
        (lambda m, c: c.release(1, [m, m]), "released twice"),
        (lambda m, c: c.release(1, []), "what is made of none is a Message with an id"),
    ],
)
def test_what_is_a_mistake_fails_its_message(process: Callable[..., Any], reason: str) -> None:
    result = Calls("zpipe_process", process).run("a")
    assert [reason in failure.reason for failure in result.failures] == [True] and not result.held


def test_a_tick_that_gives_a_payload_fails() -> None:
    result = Calls("zpipe_tick", lambda context: {"a": 1}).run(hook="tick")
    assert "context.release(output, messages)" in result.failures[0].reason


def test_where_nothing_may_be_held_the_stage_fails() -> None:
    result = Calls("zpipe_process", lambda m, c: c.hold(m), holds=Holds(refusal="count = 1")).run("a")
    assert (result.failures[0].verdict, result.failures[0].reason) == (Verdict.FAIL, "count = 1")
