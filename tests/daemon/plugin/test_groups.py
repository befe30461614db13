"""A task is decoded, called for and encoded a section at a time. That must not be seen in what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.policy import LinkPolicy
from zpipe.core.wire import section
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Slice
from zpipe.core.work.task import CallHistory, Failure, Result, Task, Verdict
from zpipe.daemon.plugin.runner import Runner
from zpipe.daemon.plugin.task_run import StageLinks
from zpipe.daemon.storage.call_journal import CallJournal, in_call
from zpipe.errors import Reject, Throttled
from zpipe.hookspecs import Context, Holds
from zpipe.messages import DROP, Message
from zpipe.plugin_classes import BatchMap, Map

POLICY = LinkPolicy(section_messages=4, parcel_bytes=10_000, max_message_bytes=20_000)
OUTCOMES = {"plain": 1, "list": 1, "message": 1, "drop": 0, "many": 2, "fails": 0, "not plain": 0}


class _Context:
    last = False
    holds = Holds()


def task_of(sections: list[list[str]], batch: bool = False) -> Task:
    slices = []
    number = 0
    for outcomes in sections:
        ids = [f"s:{number + at}" for at in range(len(outcomes))]
        body = b"\x94 broken" if "malformed" in outcomes else section.encode(ids, [1.0] * len(ids), outcomes, None)
        whole = Section(body, len(outcomes), first=number + 1)
        number += len(outcomes)
        slices.append(Slice(Delivery([whole], lambda _: None), whole, 0, 0, whole.count, 0.0))
    return Task(1, slices, CallHistory(), batch)


def of_payload(payload: Any) -> Any:
    match payload:
        case "plain":
            return "plain"
        case "list":
            return ["list"]
        case "message":
            return Message("message")
        case "drop":
            return DROP
        case "many":
            return iter(["first", "second"])
        case "not plain":
            return {"not plain": {1, 2}}
        case "over a parcel":
            return "x" * (POLICY.parcel_bytes + 1)
        case "too large":
            return "x" * (POLICY.max_message_bytes + 1)
    raise ValueError("fails")


def process(message: Message, context: Any) -> Any:
    return of_payload(message.payload)


class OfPayload(Map[None]):
    """Its function is called without it."""

    def __init__(self, function: Any = of_payload) -> None:
        self.payload_function = function

    def process(self, message: Message, context: Any) -> Any:
        raise AssertionError("the function is called in its place")


HOOKS = pytest.mark.parametrize("hook", [process, OfPayload().process], ids=["message", "payload"])


def run(task: Task, folder: Path, hook: Any = process) -> Result:
    slot = CallJournal(folder / "calls", 1).slot(0)
    runner = Runner({"zpipe_process": hook}, cast(Context, _Context()), POLICY, StageLinks())
    result = runner.begin(task, slot).advance()
    assert isinstance(result, Result)
    return result


@HOOKS
@given(sections=st.lists(st.lists(st.sampled_from([*OUTCOMES]), min_size=1, max_size=6), min_size=1, max_size=6))
def test_outputs_come_in_order_and_failures_with_their_messages(
    tmp_path_factory: Any, hook: Any, sections: list[list[str]]
) -> None:
    task = task_of(sections)
    result = run(task, tmp_path_factory.mktemp("journal"), hook)
    outcomes = [one for of_section in sections for one in of_section]
    expected = [
        (f"s:{index}" if outcome != "many" else f"s:{index}.{n}", index)
        for index, outcome in enumerate(outcomes)
        for n in range(OUTCOMES[outcome])
    ]
    made = []
    for chunk in result.chunks:
        assert chunk.messages <= POLICY.section_messages and chunk.owners is not None
        made += zip(section.decode(chunk.body, chunk.messages).ids, chunk.owners, strict=True)
    assert made == expected
    failed = {index for index, outcome in enumerate(outcomes) if outcome in ("fails", "not plain")}
    assert {failure.index for failure in result.failures} == failed
    assert result.filtered == outcomes.count("drop")


@HOOKS
@pytest.mark.parametrize("outcome", [*OUTCOMES, "malformed", "over a parcel", "too large"])
def test_a_message_alone_comes_to_what_it_does_in_a_run(tmp_path: Path, hook: Any, outcome: str) -> None:
    """It is run without all that runs need, while nothing but a plain payload comes of it."""
    dropped = ["drop"] * POLICY.section_messages
    alone, in_run = run(task_of([[outcome]]), tmp_path, hook), run(task_of([dropped, [outcome]]), tmp_path, hook)
    rows, rows_in_run = (
        [section.decode(one.body, one.messages) for one in result.chunks] for result in (alone, in_run)
    )
    assert [columns._replace(ids=[]) for columns in rows] == [columns._replace(ids=[]) for columns in rows_in_run]
    assert [list(chunk.owners or ()) for chunk in alone.chunks] == [[0] * chunk.messages for chunk in alone.chunks]
    assert all(columns.ids == [one.replace(":4", ":0") for one in ids] for columns, ids in _ids(rows, rows_in_run))
    failures, failures_in_run = alone.failures, in_run.failures
    assert [(one.index, one.reason, one.verdict) for one in failures] == [
        (one.index - len(dropped), one.reason, one.verdict) for one in failures_in_run
    ]
    assert alone.filtered == in_run.filtered - len(dropped)
    assert failures or len(alone.ages) == 1


def _ids(rows: list[section.Columns], others: list[section.Columns]) -> list[tuple[section.Columns, list[str]]]:
    return [(columns, other.ids) for columns, other in zip(rows, others, strict=True)]


@HOOKS
def test_a_malformed_section_fails_its_own_messages_alone(tmp_path: Path, hook: Any) -> None:
    result = run(task_of([["plain"] * 3, ["malformed"] * 2, ["plain"] * 4]), tmp_path, hook)
    assert [(one.index, one.verdict) for one in result.failures] == [(3, Verdict.REJECT), (4, Verdict.REJECT)]
    assert [list(chunk.owners or ()) for chunk in result.chunks] == [[0, 1, 2], [5, 6, 7, 8]]


def test_the_journal_knows_the_message_of_any_section_that_is_in_the_call(tmp_path: Path) -> None:
    """A process that dies in a call is looked into from outside: here, from inside each call."""
    found = []

    def note(payload: Any) -> Any:
        suspects, ids = in_call(tmp_path / "calls")
        [(_, rows)] = suspects.values()
        found.append((ids, rows))
        return payload

    for hook in (lambda message, context: note(message.payload), OfPayload(note).process):
        found.clear()
        run(task_of([["plain"] * 3] * 4), tmp_path, hook)
        assert found == [([f"s:{at}"], [[at + 1, at + 2, 1]]) for at in range(12)]
        found.clear()
        run(task_of([["plain"]]), tmp_path, hook)
        assert found == [(["s:0"], [[1, 2, 1]])] and in_call(tmp_path / "calls") == ({}, [])


def test_what_is_around_a_hook_is_not_passed_over(tmp_path: Path) -> None:
    """A stage's `use` puts functions in the place of hooks. They see all messages."""
    seen = []
    plugin = OfPayload()

    def around(message: Message, context: Any) -> Any:
        seen.append(message.id)
        return plugin.payload_function(message.payload)

    run(task_of([["plain"] * 3]), tmp_path, around)
    assert seen == ["s:0", "s:1", "s:2"]


@HOOKS
@pytest.mark.parametrize("sections", [[["plain"] * 3, ["list"] * 3], [["plain"]], [["list"]]])
def test_what_a_worked_on_section_was_decoded_to_is_let_go(
    tmp_path: Path, hook: Any, sections: list[list[str]]
) -> None:
    """Kept until the ack, the payloads of all messages in flight would be in memory twice."""
    task = task_of(sections)
    run(task, tmp_path, hook)
    assert all(piece.section._columns is None for piece in task.slices)


@HOOKS
def test_the_time_of_a_call_is_the_plugins_alone(hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a message by itself: a quick plugin with large outputs may drive the loop."""
    clock = [0.0]
    encode = section.encode

    def slow_encode(*columns: Any) -> bytes:
        clock[0] += 1.0
        return encode(*columns)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(section, "encode", slow_encode)
    result = run(task_of([["plain"]]), tmp_path, hook)
    assert (result.calls_s, result.seconds) == (0.0, 1.0)


@HOOKS
@pytest.mark.parametrize(
    ("outcome", "seconds"), [*((one, 2.0 if one == "many" else 1.0) for one in OUTCOMES), ("later", 3.0)]
)
def test_the_time_of_a_call_for_a_message_by_itself_has_all_that_the_plugin_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: Any, outcome: str, seconds: float
) -> None:
    """Also what it does after it has returned, and before it fails."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    async def later() -> None:
        """Nobody waits for it but this test."""

    def many() -> Iterator[str]:
        clock[0] += 1.0
        yield "first"

    def slow(payload: str) -> Any:
        clock[0] += 1.0
        made = {"many": many, "later": later}.get(payload)
        return made() if made is not None else of_payload(payload)

    called = OfPayload(slow).process if hook is not process else lambda message, context: slow(message.payload)
    slot = CallJournal(tmp_path / "calls", 1).slot(0)
    work = Runner({"zpipe_process": called}, cast(Context, _Context()), POLICY, StageLinks()).begin(
        task_of([[outcome]]), slot
    )
    step = work.advance()
    if outcome == "later":
        step.close()
        clock[0] += 2.0
        step = work.advance("waited for")
    assert (step.calls_s, step.seconds) == (seconds, seconds)


def of_batch(payloads: list[str], ids: list[str]) -> Any:
    """The first payload says what comes of all."""
    assert ids == [f"s:{index}" for index in range(len(payloads))]
    match payloads[0]:
        case "each":
            return [f"{payload} {id}" for payload, id in zip(payloads, ids, strict=True)]
        case "answers":
            return ["first", Reject("no"), DROP, *(Message(payload) for payload in payloads[3:])]
        case "many":
            return iter(payloads)
        case "throttled":
            return Throttled(1.0)
        case "too few":
            return payloads[1:]
        case "later":
            return later(payloads)
    return {"nothing": None, "drop": DROP}[payloads[0]]


async def later(made: Any) -> Any:
    return made


class OfBatch(BatchMap[None]):
    """With `function` it is called with payloads and ids; without, with messages."""

    def __init__(self, function: Any = None) -> None:
        self.batch_function = function

    def process_batch(self, messages: list[Message], context: Any) -> Any:
        assert self.batch_function is None, "the function is called in its place"
        return of_batch([message.payload for message in messages], [message.id for message in messages])


def run_batch(sections: list[list[str]], folder: Path, hook: Any, last: bool = False) -> Result:
    context = cast(Context, _Context())
    context.last = last
    slot = CallJournal(folder / "calls", 1).slot(0)
    work = Runner({"zpipe_process_batch": hook}, context, POLICY, StageLinks()).begin(task_of(sections, True), slot)
    step = work.advance()
    while not isinstance(step, Result):
        try:
            step.send(None)
        except StopIteration as done:
            step = work.advance(done.value)
    return step


@pytest.mark.parametrize(
    ("outcome", "outputs", "failed", "failed_last"),
    [
        ("each", 9, 0, 0),
        ("answers", 7, 1, 1),
        ("many", 9, 0, 0),
        ("throttled", 0, 9, 9),
        ("too few", 0, 9, 0),
        ("later", 9, 0, 0),
        ("nothing", 0, 9, 0),
        ("drop", 0, 0, 0),
        ("raises", 0, 9, 9),
        ("malformed", 0, 9, 9),
    ],
)
def test_a_batch_comes_to_the_same_as_payloads_and_as_messages(
    tmp_path: Path, outcome: str, outputs: int, failed: int, failed_last: int
) -> None:
    for last in (False, True):
        of_messages, of_payloads = [
            run_batch([[outcome] * 3, ["plain"] * 6], tmp_path, OfBatch(function).process_batch, last)
            for function in (None, of_batch)
        ]
        assert [_without_traceback(one) for one in of_messages.failures] == [
            _without_traceback(one) for one in of_payloads.failures
        ]
        assert of_messages.chunks == of_payloads.chunks and of_messages.filtered == of_payloads.filtered
        assert sum(chunk.messages for chunk in of_payloads.chunks) == (0 if last else outputs)
        assert len(of_payloads.failures) == (failed_last if last else failed)


def _without_traceback(failure: Failure) -> Failure:
    return replace(failure, traceback="")


def test_what_is_around_the_hook_of_a_batch_is_not_passed_over(tmp_path: Path) -> None:
    seen = []

    def around(messages: list[Message], context: Any) -> Any:
        seen.extend(message.id for message in messages)

    run_batch([["nothing"] * 3], tmp_path, around, last=True)
    assert seen == ["s:0", "s:1", "s:2"]
