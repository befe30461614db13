"""What the daemon and a worker process say to each other: whole frames come through, broken ones are told apart."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import piece, section_of

from zpipe.core.work.task import CallHistory, Chunk, Failure, Result, Task, Verdict
from zpipe.daemon.storage.call_journal import NONE
from zpipe.daemon.workers import task_exchange, worker_process
from zpipe.daemon.workers.task_exchange import Pipe
from zpipe.errors import PeerError


@contextmanager
def ends() -> Iterator[tuple[Pipe, socket.socket]]:
    ours, theirs = socket.socketpair()
    pipe = Pipe(ours)
    try:
        yield pipe, theirs
    finally:
        pipe.close()
        theirs.close()


def test_frames_larger_than_the_sockets_buffer_come_through() -> None:
    with ends() as (pipe, theirs):
        bodies = [bytes([n]) * (n * 1_000_000) for n in range(4)]
        sending = threading.Thread(target=Pipe(theirs).send, args=(["x", 1.5, None], bodies))
        sending.start()
        assert pipe.receive() == (["x", 1.5, None], bodies)
        sending.join()


@given(st.binary(max_size=200))
def test_garbage_is_no_frame_and_nothing_worse(garbage: bytes) -> None:
    with ends() as (pipe, theirs):
        theirs.sendall(garbage)
        theirs.close()
        with pytest.raises((EOFError, PeerError)):
            while True:
                value, bodies = pipe.receive()
                task_exchange.read_result(sent(10), value, bodies)


def sent(count: int, number: int = 7) -> Task:
    return Task(number, [piece(section_of(list(range(count))), 0, count)], CallHistory(), False)


COUNT = 30
METRICS = [
    ["counter", "hits", [1.0]],
    ["gauge", "open", [None, -1.0]],
    ["gauge", "open", [2.5, 0.0]],
    ["histogram", "size", [3.0, [[-13, 1], [33, 2]]]],
]
failures = st.builds(
    Failure,
    st.integers(0, COUNT - 1),
    st.text(max_size=20),
    st.text(max_size=20),
    st.sampled_from(Verdict),
    st.none() | st.floats(0, 100),
)
owners = st.builds(range, st.integers(0, 9), st.integers(10, 20)) | st.lists(st.integers(0, COUNT - 1), min_size=1)
chunks = st.one_of(
    st.builds(Chunk, st.text(max_size=5), st.integers(1, 300), st.binary(max_size=50), st.none()),
    st.builds(
        lambda name, of, body: Chunk(name, len(of), body, of), st.text(max_size=5), owners, st.binary(max_size=50)
    ),
)
some_failures = st.lists(failures, max_size=4, unique_by=lambda failure: failure.index)


@given(st.lists(chunks, max_size=4), st.integers(0, 9), some_failures, st.lists(st.floats(0, 9)))
def test_a_result_comes_back_as_it_went(
    given_chunks: list[Chunk], filtered: int, given_failures: list[Failure], ages: list[float]
) -> None:
    result = Result(given_chunks, filtered, given_failures, 0.5, ages)
    task = sent(COUNT)
    value, bodies = task_exchange.result_frame(task, result, METRICS)
    assert task_exchange.read_metrics(value) == METRICS
    back = task_exchange.read_result(task, value, bodies)
    assert (back.filtered, back.failures, back.seconds, back.ages) == (filtered, given_failures, 0.5, ages)
    for one, two in zip(back.chunks, given_chunks, strict=True):
        assert one[:3] == two[:3]
        assert (one.owners is None) == (two.owners is None)
        assert list(one.owners or ()) == list(two.owners or ())
        assert (type(one.owners) is range) == (type(two.owners) is range), "runs of owners are what is cheap to settle"


@pytest.mark.parametrize(
    "rows",
    [
        "counter",
        ["counter"],
        [["counter", "hits", [1]]],
        [["counter", 5, [1.0]]],
        [["counter", "hits", [1.0, 1.0]]],
        [["gauge", "open", ["x", 1.0]]],
        [["histogram", "size", [1.0, [[33, 1], 5]]]],
        [["histogram", "size", [1.0, [[34, 1]]]]],
        [["histogram", "size", [1.0, [[-14, 1]]]]],
        [["histogram", "size", [1.0, [[0, 0]]]]],
        [["histogram", "size", [1.0, [[0, 1, 1]]]]],
        [["histogram", "size", [1.0, [[0]]]]],
        [["other", "size", [1.0]]],
    ],
)
def test_changes_of_metrics_that_are_none(rows: Any) -> None:
    with pytest.raises(PeerError, match="changes of metrics that are none"):
        task_exchange.read_metrics(["ready", rows])


def test_what_is_no_result_is_said_to_be_none() -> None:
    for value in (
        ["result"],
        ["result", 7, [[]], 0, [], 0.0, [], []],
        ["result", 7, [["", 1, None]], 0, [[1, "", "", "no", None]], 0.0, [], []],
        7,
    ):
        with pytest.raises(PeerError):
            task_exchange.read_result(sent(3), value, [b""])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "rows", "filtered", "failed", "seconds"),
    [
        (6, [["", 1, None]], 0, [], 0.0),  # the result of another task, as of a process that the plugin has forked
        (7, [["", 2, [0, 1]]], 0, [], 0.0),
        (7, [["", 2, [2, 4]]], 0, [], 0.0),
        (7, [["", 1, b"\xff\xff\xff\xff"]], 0, [], 0.0),
        (7, [["", 0, None]], 0, [], 0.0),
        (7, [[7, 1, None]], 0, [], 0.0),
        (7, [["", 1, None]], 4, [], 0.0),
        (7, [["", 1, None]], -1, [], 0.0),
        (7, [["", 1, None]], 0, [3], 0.0),
        (7, [["", 1, None]], 0, [1, 1], 0.0),
        (7, [["", 1, None]], 0, [], -1.0),
    ],
)
def test_a_result_that_does_not_fit_its_task_is_none(
    number: int, rows: list[Any], filtered: int, failed: list[int], seconds: float
) -> None:
    value = ["result", number, rows, filtered, [[n, "no", "", "retry", None] for n in failed], seconds, [], []]
    with pytest.raises(PeerError):
        task_exchange.read_result(sent(3), value, [b"x"])
    if not filtered and not failed and not seconds:
        with pytest.raises(PeerError):
            task_exchange.read_early(sent(3), ["early", number, rows], [b"x"])
    task_exchange.read_result(
        sent(3), ["result", 7, [["", 1, None]], 1, [[2, "", "", "retry", None]], 0.1, [1], []], [b"x"]
    )


@given(st.booleans(), st.integers(1, 5), st.integers(0, 5))
def test_every_death_is_somebodys_or_the_messages_are_run_again_alone(batch: bool, count: int, note: int) -> None:
    note = min(note, count)
    task = Task(1, [piece(section_of(list(range(count))), 0, count)], CallHistory(), batch)
    result = worker_process.died_result(task, note, "why", "trace", 1.0)
    assert [failure.index for failure in result.failures] == list(range(count)) and result.chunks == []
    dead = [failure.index for failure in result.failures if failure.verdict is Verdict.DEATH]
    if batch:
        assert dead == list(range(count))
    elif count == 1:
        assert dead == [0]
    else:
        assert dead == ([] if note == NONE else [note - 1])


def test_how_a_process_ended() -> None:
    assert worker_process.how_call_ended(-11) == "its worker process was killed by SIGSEGV"
    assert worker_process.how_call_ended(-40) == "its worker process was killed by signal 40"
    assert worker_process.how_call_ended(0) == "its worker process exited with code 0 in the call"
    assert (
        worker_process.too_large((600 << 20) + 1, 512 << 20)
        == "its worker process used 601 MiB, over the limit of 512 MiB"
    )
