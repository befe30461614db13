from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zpipe.core.limit.limiter import NEVER, Limiter
from zpipe.core.limit.token_bucket import BURST_S, TokenBucket
from zpipe.core.policy import LimitPolicy

AIMD = LimitPolicy("aimd", start=4, max=16)


def fill(limiter: Limiter, now: float) -> int:
    """Starts what it lets start; how many."""
    count = 0
    while limiter.may_start(now):
        limiter.started(now)
        count += 1
    return count


def succeed(limiter: Limiter, now: float, seconds: float = 1.0) -> None:
    limiter.finished(now, seconds, throttled=False, failed=False)


def throttle(limiter: Limiter, now: float, retry_after_s: float | None = None) -> None:
    limiter.finished(now, 0.0, throttled=True, failed=False, retry_after_s=retry_after_s)


def test_slow_start_doubles_in_a_round_trip_up_to_max() -> None:
    limiter = Limiter(AIMD, 0.0)
    seen = []
    for now in range(4):
        seen.append(fill(limiter, now))
        for _ in range(limiter.under_way):
            succeed(limiter, now + 1)
    assert seen == [4, 8, 16, 16]
    assert (limiter.reason, limiter.changed_at) == ("growing", 2)


def test_what_is_not_used_does_not_grow() -> None:
    limiter = Limiter(AIMD, 0.0)
    for now in range(100):
        limiter.started(now)
        succeed(limiter, now + 1)
    assert limiter.limit == 4
    assert limiter.reason == "start"


def test_after_a_throttle_it_adds_one_in_a_round_trip() -> None:
    limiter = Limiter(LimitPolicy("aimd", start=20, max=100), 0.0)
    fill(limiter, 0.0)
    for _ in range(2):
        throttle(limiter, 0.1)
    assert limiter.limit == 18, "two of one round trip are one too many"
    assert limiter.reason == "throttled"
    for _ in range(18):
        succeed(limiter, 1.0)
    assert limiter.limit == 18, "what started before tells nothing"
    for now in range(1, 7):
        assert fill(limiter, now) == limiter.limit
        for _ in range(limiter.under_way):
            succeed(limiter, now + 1)
    assert limiter.limit == pytest.approx(24, abs=1)


def test_the_place_of_a_refused_call_is_not_free() -> None:
    limiter = Limiter(LimitPolicy("aimd", start=20, max=100), 0.0)
    fill(limiter, 0.0)
    for _ in range(10):
        throttle(limiter, 0.01)
    assert limiter.limit == 18
    assert not limiter.may_start(0.02)
    assert limiter.next_at() == pytest.approx(0.11), "for one round trip, 0.1 s as long as none is known"
    succeed(limiter, 0.05)
    assert fill(limiter, 0.05) == 1, "one goes, one comes"


def test_latency_beyond_the_usual_lowers_it_and_says_so() -> None:
    limiter = Limiter(LimitPolicy("aimd", start=20, max=20), 0.0)
    for now in range(20):
        fill(limiter, now)
        for _ in range(limiter.under_way):
            succeed(limiter, now + 1, seconds=0.2)
    assert limiter.limit == 20
    fill(limiter, 20.0)
    for _ in range(limiter.under_way):
        succeed(limiter, 21.0, seconds=0.81)
    assert limiter.limit == 14
    assert limiter.reason == "latency 810 ms is beyond the usual 200 ms"


@pytest.mark.parametrize("throttled", [True, False])
def test_an_outage_leaves_one_call_and_what_was_learned(throttled: bool) -> None:
    limiter = Limiter(LimitPolicy("aimd", start=40, max=100), 0.0)
    fill(limiter, 0.0)
    for _ in range(40):
        succeed(limiter, 1.0)
    before = limiter.limit
    assert before == 80
    now = 1.0
    for _ in range(10_000):
        now = max(now, limiter.next_at()) if not limiter.under_way else now
        fill(limiter, now)
        limiter.finished(now, 0.0, throttled, not throttled)
        assert limiter.limit is not None and limiter.limit >= 1
    assert limiter.limit == 1
    assert limiter.reason == "80 calls in a row came to nothing" or throttled
    assert now > 1000, "at most one call a round trip"
    grown = []
    for _ in range(9):
        now = max(now, limiter.next_at())
        grown.append(fill(limiter, now))
        now += 1.0
        for _ in range(limiter.under_way):
            succeed(limiter, now)
    assert grown[:6] == [1, 2, 4, 8, 16, 32]
    assert grown[-1] >= 0.8 * before


def test_a_few_failures_in_a_row_are_no_outage() -> None:
    limiter = Limiter(LimitPolicy("aimd", start=2, max=100), 0.0)
    for _ in range(7):
        limiter.started(0.0)
        limiter.finished(0.0, 0.0, throttled=False, failed=True)
    assert limiter.limit == 2
    assert limiter.may_start(0.0)


def test_retry_after_holds_the_stage_only_if_nothing_is_in_service() -> None:
    limiter = Limiter(AIMD, 0.0)
    fill(limiter, 0.0)
    for _ in range(2):
        throttle(limiter, 0.0, retry_after_s=30.0)
    succeed(limiter, 0.5, seconds=0.5)
    assert limiter.may_start(0.5)
    throttle(limiter, 0.5, retry_after_s=30.0)
    assert limiter.next_at() == 30.5


def test_fixed() -> None:
    limiter = Limiter(LimitPolicy("fixed", max=3), 5.0)
    assert fill(limiter, 5.0) == 3
    assert limiter.next_at() == NEVER
    for _ in range(3):
        throttle(limiter, 6.0)
    assert (limiter.limit, limiter.reason, limiter.changed_at) == (3, "fixed", 5.0)
    assert fill(limiter, 6.0) == 3


def test_a_rate_alone_has_no_limit() -> None:
    limiter = Limiter(LimitPolicy("fixed", max=None, rate=10.0), 0.0)
    assert limiter.limit is None
    assert fill(limiter, 0.0) == 1
    assert limiter.next_at() == pytest.approx(0.1 - BURST_S)


def test_another_policy_while_running() -> None:
    limiter = Limiter(LimitPolicy("aimd", start=40, max=100), 0.0)
    fill(limiter, 0.0)
    limiter.change(LimitPolicy("aimd", start=10, max=20), 1.0)
    assert (limiter.limit, limiter.under_way) == (20, 40), "what was learned stays, within the new max"
    assert limiter.reason == "the config changed"
    limiter.change(LimitPolicy("fixed", max=5, rate=1.0), 2.0)
    assert (limiter.limit, limiter.changed_at) == (5, 2.0)
    for _ in range(40):
        succeed(limiter, 3.0)
    assert fill(limiter, 4.0) == 1
    limiter.change(LimitPolicy("aimd", start=10, max=20), 5.0)
    assert limiter.limit == 5, "goes on from what it was"


@given(st.floats(0.1, 1e5), st.lists(st.floats(0, 0.5), max_size=200))
def test_no_window_has_more_than_its_rate(per_s: float, pauses: list[float]) -> None:
    rate, now, starts = TokenBucket(per_s), 0.0, []
    for pause in pauses:
        now += pause
        for _ in range(50):
            if rate.next_at() > now:
                break
            rate.started(now)
            starts.append(now)
    for first in range(0, len(starts), 7):
        for last in range(first, len(starts), 11):
            window = starts[last] - starts[first]
            assert last - first + 1 <= per_s * (window + BURST_S) + 1 + 1e-6


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes in whatever order: the limit is in its bounds and never passed by a start."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.limiter = Limiter(AIMD, self.now)
        self.most = 16
        self.began: list[float] = []

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def start(self) -> None:
        while self.limiter.may_start(self.now):
            self.limiter.started(self.now)
            self.began.append(self.now)
            assert self.limiter.limit is not None
            assert len(self.began) <= self.limiter.limit

    @precondition(lambda self: self.began)
    @rule(how=st.sampled_from(["", "", "throttled", "failed"]), calls=st.integers(1, 20), retry=st.floats(0, 60))
    def finish(self, how: str, calls: int, retry: float) -> None:
        for _ in range(min(calls, len(self.began))):
            seconds = self.now - self.began.pop(0)
            self.limiter.finished(self.now, seconds, how == "throttled", how == "failed", retry if calls % 2 else None)

    @rule(start=st.integers(1, 50), most=st.integers(50, 100))
    def change(self, start: int, most: int) -> None:
        self.limiter.change(LimitPolicy("aimd", start, most), self.now)
        self.most = most

    @invariant()
    def bounded(self) -> None:
        limiter = self.limiter
        assert limiter.limit is not None and 1 <= limiter.limit <= self.most
        assert limiter.under_way == len(self.began)
        assert limiter.reason
        assert limiter.changed_at <= self.now
        # Without a call under way the time alone opens it: nothing else would ever wake the stage.
        assert self.began or limiter.next_at() < NEVER


TestAnyOrder = AnyOrder.TestCase
