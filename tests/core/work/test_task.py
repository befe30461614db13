"""A task and its halves, and the history of its messages: nothing is lost, and each is counted once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slices import slices

from zpipe.core.work.delivery import Slice
from zpipe.core.work.task import HISTORY_LINES, CallHistory, Failure, Task, Verdict


def where(pieces: list[Slice]) -> list[tuple[int, int]]:
    return [(id(piece.section), at) for piece in pieces for at in range(piece.start, piece.stop)]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_a_task_finds_each_message_and_halves_without_loss(counts: list[int]) -> None:
    pieces = slices(*counts)
    task = Task(1, pieces, CallHistory(), True)
    assert task.count == sum(counts)
    assert where([task.at(n) for n in range(task.count)]) == where(pieces)
    with pytest.raises(IndexError):
        task.at(task.count)
    first, second = task.halves()
    assert where(first) + where(second) == where(pieces)
    assert len(where(first)) == task.count // 2


@given(st.lists(st.sampled_from([verdict for verdict in Verdict if verdict is not Verdict.FAIL]), max_size=60))
def test_a_history_counts_what_happened(verdicts: list[Verdict]) -> None:
    history = CallHistory()
    for verdict in verdicts:
        history = history.after(Failure(0, verdict.value, verdict=verdict))
    assert history.attempts == verdicts.count(Verdict.RETRY) + verdicts.count(Verdict.REJECT)
    assert history.deaths == verdicts.count(Verdict.DEATH)
    assert history.throttles <= verdicts.count(Verdict.THROTTLED)
    assert len(history.lines) == min(history.calls, HISTORY_LINES)
