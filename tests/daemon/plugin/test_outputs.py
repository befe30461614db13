"""What a process hook's answer means: its type decides, never its content; the same in any plugin and any kind of worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pools import Bench, bench, payloads, task

from zpipe.core.wire import section
from zpipe.core.work.task import Result, Verdict
from zpipe.daemon.plugin.runner import Runner
from zpipe.daemon.plugin.task_run import StageLinks
from zpipe.daemon.storage.call_journal import CallSlot

PLUGIN = """
from collections import namedtuple

from zpipe import DROP, Message, Reject, hookimpl, many

Pair = namedtuple("Pair", "a b")
ANSWERS = {
    "list": lambda: [1, 2],
    "tuple": lambda: (1, 2),
    "empty": lambda: [],
    "named": lambda: Pair(1, 2),
    "nested": lambda: [[1], [2, [3]]],
    "in a message": lambda: Message([1, 2]),
    "generator": lambda: (n for n in range(3)),
    "iterator": lambda: map(str, [1, 2]),
    "many": lambda: many([1, [2, 3], Message(4)]),
    "many, one dropped": lambda: many([DROP, 1]),
    "many of none": lambda: many([]),
    "lists out of a generator": lambda: ([n] for n in range(2)),
    "message first": lambda: [Message(1), 2],
    "message last": lambda: [1, Message(2)],
    "drop inside": lambda: (DROP, 1),
    "reject inside": lambda: [1, Reject("no")],
    "many inside": lambda: [many([1])],
    "generator inside": lambda: [(n for n in "ab")],
    "inside a message": lambda: Message([Message(1)]),
    "inside what is yielded": lambda: many([1, [DROP]]),
    "many of many": lambda: many([many([1])]),
    "reject yielded": lambda: many([1, Reject("this one")]),
}


def answer(payload):
    return ANSWERS[payload]()


@hookimpl
def zpipe_process(message):
    return answer(message.payload)
"""
ONE_PAYLOAD = {
    "list": [1, 2],
    "tuple": [1, 2],
    "empty": [],
    "named": [1, 2],
    "nested": [[1], [2, [3]]],
    "in a message": [1, 2],
}
MANY = {
    "generator": [0, 1, 2],
    "iterator": ["1", "2"],
    "many": [1, [2, 3], 4],
    "many, one dropped": [1],
    "many of none": [],
    "lists out of a generator": [[0], [1]],
}
_INSIDE = "yield them, or return zpipe.many(...)"
WRONG = {
    "message first": f"TypeError: a Message inside a list, which is one payload: {_INSIDE}",
    "message last": f"TypeError: a Message inside a list, which is one payload: {_INSIDE}",
    "drop inside": f"TypeError: zpipe.DROP inside a tuple, which is one payload: {_INSIDE}",
    "reject inside": f"TypeError: a Reject inside a list, which is one payload: {_INSIDE}",
    "many inside": f"TypeError: a list_iterator inside a list, which is one payload: {_INSIDE}",
    "generator inside": f"TypeError: a generator inside a list, which is one payload: {_INSIDE}",
    "inside a message": f"TypeError: a Message inside a list, which is one payload: {_INSIDE}",
    "inside what is yielded": f"TypeError: zpipe.DROP inside a list, which is one payload: {_INSIDE}",
    "many of many": f"TypeError: a list_iterator among the outputs: {_INSIDE}",
    "reject yielded": "this one",
}
PYTHON = 'plugin = "python"\noptions = { function = "work.py:answer" }'


@pytest.fixture(params=['kind = "thread"', 'kind = "process"'])
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, PLUGIN, request.param) as made:
        yield made


def ids(result: Result) -> list[str]:
    return [id for chunk in result.chunks for id in section.decode(chunk.body, chunk.messages)[0]]


def test_a_list_or_a_tuple_is_one_payload_and_keeps_its_id(pool: Bench) -> None:
    result = pool.run(task(list(ONE_PAYLOAD)))
    assert (payloads(result), result.failures) == (list(ONE_PAYLOAD.values()), [])
    assert ids(result) == [f"read:{n}" for n in range(len(ONE_PAYLOAD))]


def test_an_iterator_or_many_is_many(pool: Bench) -> None:
    for answer, made in MANY.items():
        result = pool.run(task([answer]))
        assert (answer, payloads(result), result.failures) == (answer, made, [])
        assert result.filtered == (not made)
    assert ids(pool.run(task(["many"]))) == ["read:0.0", "read:0.1", "read:0.2"]


def test_outputs_inside_a_list_are_an_error_that_says_what_to_do(pool: Bench) -> None:
    result = pool.run(task([*WRONG, "list"]))
    assert [failure.reason for failure in result.failures] == list(WRONG.values())
    assert payloads(result) == [[1, 2]], "and only of their own message"


def test_the_python_plugin_has_the_same_rule(tmp_path: Path) -> None:
    with bench(tmp_path, PLUGIN, "count = 1", plugin=PYTHON) as pool:
        result = pool.run(task([*ONE_PAYLOAD, *MANY, *WRONG]))
        assert payloads(result) == [*ONE_PAYLOAD.values(), *[one for made in MANY.values() for one in made]]
        assert [failure.reason for failure in result.failures] == list(WRONG.values())


BATCH = """
from zpipe import DROP, Message, Reject, hookimpl, many


def answer(payloads):
    match payloads[0]:
        case "one to one":
            return [[1], DROP, Reject("no"), many([4, 5])][: len(payloads)]
        case "tuple":
            return tuple(payloads)
        case "generator":
            return (n for n in range(2))
        case "as many as messages":
            return many(payloads)
        case "drop":
            return DROP
        case "reject":
            return Reject("all of them")
        case "short":
            return payloads[:-1]
        case "long":
            return [*payloads, 1]
        case "map":
            return {"a": 1}
        case "text":
            return "ab"
        case "number":
            return 5
        case "short, with a rejection":
            return [Reject("no")]


@hookimpl
def zpipe_process_batch(messages):
    return answer([message.payload for message in messages])
"""


@pytest.fixture(params=["", PYTHON])
def batches(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, BATCH, "count = 1", "batch = { messages = 10 }", request.param) as made:
        yield made


def test_a_batch_answers_one_to_one_or_many_to_many(batches: Bench) -> None:
    result = batches.run(task(["one to one", "b", "c", "d"], batch=True))
    assert (payloads(result), result.filtered) == ([[1], 4, 5], 1)
    assert [(f.index, f.reason, f.verdict) for f in result.failures] == [(2, "no", Verdict.REJECT)]
    assert ids(result) == ["read:0", "read:3.0", "read:3.1"]
    result = batches.run(task(["tuple", "b"], batch=True))
    assert (payloads(result), ids(result)) == (["tuple", "b"], ["read:0", "read:1"])
    result = batches.run(task(["generator", "b", "c"], batch=True))
    assert (payloads(result), ids(result)) == ([0, 1], ["read:0~3.0", "read:0~3.1"])
    result = batches.run(task(["as many as messages", "b"], batch=True))
    assert ids(result) == ["read:0~2.0", "read:0~2.1"], "many is many, also where the number is that of the batch"
    assert batches.run(task(["drop", "b"], batch=True)).filtered == 2
    assert [f.reason for f in batches.run(task(["reject", "b"], batch=True)).failures] == ["all of them"] * 2


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        ("short", "a list of 2"),
        ("long", "a list of 4"),
        ("map", "a dict"),
        ("text", "a str"),
        ("number", "a int"),
        ("short, with a rejection", "a list of 1"),
    ],
)
def test_anything_else_is_an_error_with_both_lengths(batches: Bench, answer: str, given: str) -> None:
    reasons = {f.reason for f in batches.run(task([answer, "b", "c"], batch=True)).failures}
    assert reasons == {
        f"WrongBatch: returned {given} for a batch of 3: return a list of 3, one entry for each message, "
        "or yield the outputs, or return zpipe.many(...)"
    }


def run_last(hooks: dict[str, Any], pool: Bench, payloads: list[Any], batch: bool) -> Result:
    """What becomes of a task in a last stage."""
    pool.context.last = True
    work = Runner(hooks, pool.context, pool.link, StageLinks()).begin(
        task(payloads, batch), CallSlot(memoryview(bytearray(1024)))
    )
    result = work.advance()
    assert isinstance(result, Result) and result.chunks == []
    return result


def test_a_last_stage_ignores_results_but_not_what_was_meant_for_a_message(batches: Bench) -> None:
    ignored = ["short", "long", "map", "text", "number", "tuple", "none", "generator"]
    for answer in ignored:
        assert run_last(dict(batches.plugin.hooks), batches, [answer, "b", "c"], True).failures == []
    result = run_last(dict(batches.plugin.hooks), batches, ["one to one", "b", "c"], True)
    assert [f.reason for f in result.failures] == ["no"]
    result = run_last(dict(batches.plugin.hooks), batches, ["short, with a rejection", "b", "c"], True)
    assert len(result.failures) == 3, "a rejection that nobody can match with its message must not become an ack"


def test_a_last_stage_runs_generators(tmp_path: Path) -> None:
    seen = []

    def process(message: Any, context: Any) -> Any:
        for n in range(3):
            seen.append(n)
            yield n

    with bench(tmp_path, PLUGIN, "count = 1") as pool:
        assert run_last({"zpipe_process": process}, pool, ["x"], False).failures == []
    assert seen == [0, 1, 2]


EACH = """
from zpipe import DROP, Reject, hookimpl, many


@hookimpl
def zpipe_process_each(messages):
    payloads = [message.payload for message in messages]
    if "raise" in payloads:
        raise ValueError("all of them")
    if "short" in payloads:
        return payloads[1:]
    if "map" in payloads:
        return {}
    special = {"many": lambda: many([1, 2]), "drop": lambda: DROP, "reject": lambda: Reject("this one")}
    return [special[one]() if one in special else [one, len(messages)] for one in payloads]
"""


@pytest.fixture
def together(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, EACH, "count = 1") as made:
        yield made


def test_messages_of_a_worker_in_one_call_have_an_answer_each(together: Bench) -> None:
    result = together.run(task(["a", "many", "drop", "reject", "b"]))
    assert (payloads(result), result.filtered) == ([["a", 5], 1, 2, ["b", 5]], 1)
    assert ids(result) == ["read:0", "read:1.0", "read:1.1", "read:4"]
    assert [(f.index, f.reason, f.verdict) for f in result.failures] == [(3, "this one", Verdict.REJECT)]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("raise", "ValueError: all of them"),
        (
            "short",
            "WrongAnswers: zpipe_process_each returned a list of 1 for 2 messages: return a list with an entry for each",
        ),
        (
            "map",
            "WrongAnswers: zpipe_process_each returned a dict for 2 messages: return a list with an entry for each",
        ),
    ],
)
def test_one_call_that_fails_fails_each(together: Bench, payload: str, reason: str) -> None:
    failures = together.run(task(["a", payload])).failures
    assert [(f.index, f.reason) for f in failures] == [(0, reason), (1, reason)]
    assert {f.verdict for f in failures} == {Verdict.RETRY}


def test_such_a_call_may_be_awaited(tmp_path: Path) -> None:
    source = (
        "import asyncio\nfrom zpipe import hookimpl\n@hookimpl\nasync def zpipe_process_each(messages):\n"
        "    await asyncio.sleep(0)\n    return [message.payload * 2 for message in messages]\n"
    )
    with bench(tmp_path, source, "count = 1") as made:
        assert payloads(made.run(task([1, 2]))) == [2, 4]
