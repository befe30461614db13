"""When a message is tried again, and when no more."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slices import slices

from zpipe.core.policy import RetryPolicy
from zpipe.core.processing.retries import SPREAD, Retries
from zpipe.core.work.task import CallHistory, Failure, Verdict

FAILED = Failure(0, "no")
THROTTLED = Failure(0, "slow down", verdict=Verdict.THROTTLED)
DIED = Failure(0, "SIGSEGV", verdict=Verdict.DEATH)


def test_delays_double_up_to_the_most_with_full_jitter() -> None:
    retries = Retries(RetryPolicy(attempts=5, delay_s=1.0, max_delay_s=10.0))
    most = [retries.delay_s(FAILED, CallHistory(attempts=n), 0.999999) for n in range(1, 7)]
    assert most == pytest.approx([1, 2, 4, 8, 10, 10], rel=1e-5)
    assert [retries.delay_s(FAILED, CallHistory(attempts=n), 0.0) for n in range(1, 7)] == [0.0] * 6
    assert retries.delay_s(FAILED, CallHistory(attempts=10_000), 0.5) == 5.0


def test_throttles_have_their_own_delays_and_a_delay_asked_for_is_kept() -> None:
    retries = Retries(RetryPolicy(delay_s=1.0, max_delay_s=10.0))
    assert retries.delay_s(THROTTLED, CallHistory(attempts=4, throttles=1), 0.5) == 0.5
    assert retries.delay_s(THROTTLED, CallHistory(throttles=3), 0.5) == 2.0
    asked = Failure(0, "", verdict=Verdict.THROTTLED, delay_s=30.0)
    assert retries.delay_s(asked, CallHistory(throttles=1), 0.0) == 30.0
    assert retries.delay_s(asked, CallHistory(throttles=1), 1.0) == 30.0 * (1 + SPREAD)
    assert retries.delay_s(DIED, CallHistory(deaths=1), 0.9) == 0.0


def test_attempts_and_deaths_are_finite_and_throttles_are_not() -> None:
    retries = Retries(RetryPolicy(attempts=3, deaths=2))
    assert [retries.exhausted(CallHistory(attempts=n)) for n in (1, 2, 3, 4)] == [False, False, True, True]
    assert [retries.exhausted(CallHistory(deaths=n)) for n in (1, 2, 3)] == [False, True, True]
    assert not retries.exhausted(CallHistory(attempts=2, throttles=1000, deaths=1))
    assert Retries(RetryPolicy(attempts=1)).exhausted(CallHistory(attempts=1))


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 4)), max_size=12), st.floats(0, 10))
def test_retries_come_when_they_are_due_and_in_order(entries: list[tuple[float, int]], now: float) -> None:
    retries = Retries(RetryPolicy())
    for n, (due_at, count) in enumerate(entries):
        retries.add(slices(count), CallHistory(attempts=n), due_at)
    assert retries.messages == sum(count for _, count in entries)
    assert retries.next_at == min((at for at, _ in entries), default=math.inf)
    popped = []
    while retries.next_at <= now:
        first = retries.first()
        slices_, history = retries.pop()
        assert slices_[0] is first
        popped.append(history.attempts)
    expected = sorted((at, n) for n, (at, _) in enumerate(entries) if at <= now)
    assert popped == [n for _, n in expected]
    assert retries.messages == sum(count for at, count in entries if at > now)
