from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zpipe.core.processing.time_budget import SHARES, Histogram, TimeBudget


@settings(max_examples=60)
@given(st.lists(st.floats(1e-6, 1e5), min_size=1, max_size=40), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_percentiles_are_within_a_bucket(seconds: list[float], share: float) -> None:
    histogram = Histogram()
    for one in seconds:
        histogram.add(one, 1)
    true = sorted(seconds)[math.ceil(share * len(seconds)) - 1]
    assert true * 0.999999 <= histogram.percentile(share) <= true * 1.062501


def test_a_time_at_a_bucket_s_lower_edge_is_a_sixteenth_off_at_most() -> None:
    histogram = Histogram()
    histogram.add(1e-6 * 1024, 1)
    assert histogram.percentile(0.5) == pytest.approx(1e-6 * 1024 * 1.0625)


def test_messages_weigh_and_take_forgets() -> None:
    histogram = Histogram()
    histogram.add(0.001, 99)
    histogram.add(10.0, 1)
    taken = histogram.take()
    assert set(taken) == {"p50_s", "p90_s", "p99_s"}
    assert taken["p99_s"] < 0.002
    assert histogram.take() == {"p50_s": 0.0, "p90_s": 0.0, "p99_s": 0.0}
    histogram.add(10.0, 1)
    assert histogram.percentile(0.5) > 9.0


def test_times_below_the_least_count_as_the_least() -> None:
    histogram = Histogram()
    for seconds in (0.0, -5.0, 1e-9):
        histogram.add(seconds, 1)
    assert 0 < histogram.percentile(1.0) < 2e-6


@pytest.mark.parametrize("seconds", [math.inf, -math.inf, math.nan, 1e308, 1e6, 1.1e6])
def test_times_that_are_none_do_not_raise(seconds: float) -> None:
    histogram = Histogram()
    histogram.add(seconds, 1)
    assert 0.0 < histogram.percentile(1.0) <= 1.25e6


@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 12), st.sampled_from([s for s in SHARES if s != "working"]))),
)
def test_a_budget_adds_up(workers: int, steps: list[tuple[float, int, str]]) -> None:
    budget, now = TimeBudget(workers, 0.0), 0.0
    for seconds, busy, idle_as in steps:
        now += seconds
        budget.advance(now, busy, idle_as)
    shares = budget.take()
    assert set(shares) == set(SHARES)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert all(0.0 <= share <= 1.0 for share in shares.values())
    assert budget.take() == {**dict.fromkeys(SHARES, 0.0), "waiting": 1.0}


def test_who_works_and_who_is_idle() -> None:
    budget = TimeBudget(4, 10.0)
    budget.advance(11.0, 1, "blocked")
    budget.advance(10.5, 4, "waiting")  # a clock does not go back
    budget.advance(12.0, 9, "waiting")  # more tasks than workers: all work
    assert budget.take() == pytest.approx(
        {"working": 5 / 8, "blocked": 3 / 8, "waiting": 0, "limited": 0, "retrying": 0}
    )


def test_what_was_added_so_far_stays_when_percentiles_are_taken() -> None:
    histogram = Histogram()
    histogram.add(100e-6, 3)
    assert histogram.take()["p50_s"] > 0.0
    histogram.add(100e-6, 1)
    histogram.add(0.003, 2)
    for _ in range(2):  # looking changes nothing
        assert histogram.so_far() == {
            "messages": 6,
            "sum_s": pytest.approx(4 * 100e-6 + 2 * 0.003),
            "buckets": [[pytest.approx(128e-6), 4], [pytest.approx(4096e-6), 2]],
        }


@given(st.lists(st.floats(1e-6, 1e6), max_size=50), st.integers(0, 50))
def test_each_is_below_the_upper_edge_of_its_bucket_and_not_below_half_of_it(times: list[float], taken: int) -> None:
    histogram = Histogram()
    for number, seconds in enumerate(times):
        histogram.add(seconds, 1)
        if number == taken:
            histogram.take()
    found = histogram.so_far()
    assert found["messages"] == len(times)
    assert found["sum_s"] == pytest.approx(sum(times))
    for upper_s, messages in found["buckets"]:
        assert messages == sum(upper_s / 2 <= seconds * (1 + 1e-12) and seconds < upper_s for seconds in times)
