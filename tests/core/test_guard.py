from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.actions import Gate
from zpipe.core.guard import Guard
from zpipe.core.intake import Self
from zpipe.core.policy import DeadPolicy, StagePolicy
from zpipe.core.stage import Stage
from zpipe.core.work import DeadLetter, Past
from zpipe.testing import seeded_bytes

GOOD, DEAD, RESUME = "good", "dead", "resume"
events = st.lists(
    st.one_of(
        st.tuples(st.just(GOOD), st.integers(0, 30)),
        st.tuples(st.just(DEAD), st.integers(1, 30)),
        st.tuples(st.just(RESUME), st.just(0)),
    ),
    max_size=60,
)


@given(events, st.floats(0.01, 1.0), st.integers(1, 20), st.integers(0, 40))
def test_it_stops_exactly_when_the_share_of_the_last_messages_is_passed(
    given_events: list[tuple[str, int]], storm: float, least: int, more: int
) -> None:
    """Against the plain list of outcomes."""
    policy = DeadPolicy(storm=storm, storm_least=least, storm_window=least + more)
    guard = Guard(policy)
    outcomes: list[bool] = []
    stopped = False
    for what, count in given_events:
        if what == RESUME:
            guard.reset()
            outcomes, stopped = [], False
        elif what == GOOD:
            guard.good(count)
            outcomes += [False] * count
        for _ in range(count if what == DEAD else 0):
            guard.dies()
            guard.died()
            outcomes.append(True)
            last = outcomes[-policy.storm_window :]
            stopped |= len(last) >= least and sum(last) > storm * len(last)
        assert guard.may_take != stopped
        assert bool(guard.stopped_by) == stopped


def test_a_share_of_1_never_stops() -> None:
    guard = Guard(DeadPolicy(storm=1.0))
    for _ in range(1000):
        guard.dies()
        guard.died()
    assert guard.may_take


def test_what_is_being_written_counts_as_kept() -> None:
    guard = Guard(DeadPolicy(messages=3))
    guard.kept(2, 100)
    assert guard.may_take
    guard.dies()
    assert not guard.may_take and guard.full and "limit of 3" in guard.stopped_by
    guard.died()
    guard.kept(3, 100)
    assert not guard.may_take
    guard.reset()
    assert not guard.may_take, "resume makes no room"
    guard.kept(2, 100)
    assert guard.may_take and guard.stopped_by == ""


@pytest.mark.parametrize(("size", "may_take"), [(99, True), (100, False), (101, False)])
def test_the_limit_in_bytes(size: int, may_take: bool) -> None:
    guard = Guard(DeadPolicy(bytes=100))
    guard.kept(1, size)
    assert guard.may_take is may_take
    assert ("100 bytes" in guard.stopped_by) is not may_take


def limits(stage: Stage) -> list[int]:
    return [action.limit for action in stage.settle(0.0) if isinstance(action, Gate)]


def test_a_source_that_cannot_read_its_records_is_not_emptied() -> None:
    head = Stage(Self("p", "read", 1, "i"), [], [("", "work")], StagePolicy(), 0.0, seeded_bytes("random"))
    head.opened()
    assert limits(head)[-1] > 100
    unread = [DeadLetter("not JSON", "", Past(attempts=1), None, id=f"read:{n}", raw="") for n in range(100)]
    head.source_emitted([], 99, 100, unread)
    assert limits(head) == [100], "no more than it has given"
    head.pause(False)
    assert limits(head)[-1] > 100
