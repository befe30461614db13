from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core import events as ev
from zpipe.core.actions import LimitOutputs
from zpipe.core.policy import DeadPolicy, StagePolicy
from zpipe.core.processing.circuit_breaker import CircuitBreaker
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.work.task import CallHistory, DeadLetter
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
    breaker = CircuitBreaker(policy)
    outcomes: list[bool] = []
    stopped = False
    for what, count in given_events:
        if what == RESUME:
            breaker.reset()
            outcomes, stopped = [], False
        elif what == GOOD:
            breaker.succeeded(count)
            outcomes += [False] * count
        for _ in range(count if what == DEAD else 0):
            breaker.dead_letter_made()
            breaker.dead_letter_written()
            outcomes.append(True)
            last = outcomes[-policy.storm_window :]
            stopped |= len(last) >= least and sum(last) > storm * len(last)
        assert breaker.may_take != stopped
        assert bool(breaker.stopped_by) == stopped


def test_a_share_of_1_never_stops() -> None:
    breaker = CircuitBreaker(DeadPolicy(storm=1.0))
    for _ in range(1000):
        breaker.dead_letter_made()
        breaker.dead_letter_written()
    assert breaker.may_take


def test_what_is_being_written_counts_as_kept() -> None:
    breaker = CircuitBreaker(DeadPolicy(messages=3))
    breaker.stored(2, 100)
    assert breaker.may_take
    breaker.dead_letter_made()
    assert not breaker.may_take and breaker.full and "limit of 3" in breaker.stopped_by
    breaker.dead_letter_written()
    breaker.stored(3, 100)
    assert not breaker.may_take
    breaker.reset()
    assert not breaker.may_take, "resume makes no room"
    breaker.stored(2, 100)
    assert breaker.may_take and breaker.stopped_by == ""


@pytest.mark.parametrize(("size", "may_take"), [(99, True), (100, False), (101, False)])
def test_the_limit_in_bytes(size: int, may_take: bool) -> None:
    breaker = CircuitBreaker(DeadPolicy(bytes=100))
    breaker.stored(1, size)
    assert breaker.may_take is may_take
    assert ("100 bytes" in breaker.stopped_by) is not may_take


def limits(stage: Stage) -> list[int]:
    return [action.limit for action in stage.turn(0.0) if isinstance(action, LimitOutputs)]


def test_a_source_that_cannot_read_its_records_is_not_emptied() -> None:
    head = Stage(Identity("p", "read", 1, "i"), [], [("", "work")], StagePolicy(), 0.0, seeded_bytes("random"))
    head.handle(ev.Opened(), 0.0)
    assert limits(head)[-1] > 100
    unread = [DeadLetter("not JSON", "", CallHistory(attempts=1), None, id=f"read:{n}", raw="") for n in range(100)]
    head.handle(ev.SourceYielded([], 99, 100, unread), 0.0)
    assert limits(head) == [100], "no more than it has given"
    head.handle(ev.OrderGiven("resume"), 0.0)
    assert limits(head)[-1] > 100
