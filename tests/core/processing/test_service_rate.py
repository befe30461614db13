"""How fast a stage serves, and the sizes that follow from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.processing.service_rate import ServiceRate


def test_before_the_first_measure() -> None:
    rate = ServiceRate(4)
    assert rate.service_s is None and rate.rate == 0.0
    assert rate.task_messages(512) == 1
    assert rate.window(0.05, least=4, most=1000) == 4


def test_it_follows_what_is_measured() -> None:
    rate = ServiceRate(2)
    rate.measure(10, 0.1)
    assert rate.service_s == pytest.approx(0.01) and rate.rate == pytest.approx(200)
    for _ in range(60):
        rate.measure(1, 0.0001)
    assert rate.service_s == pytest.approx(0.0001, rel=0.01)
    assert rate.task_messages(512) == pytest.approx(50, abs=1)
    assert rate.task_messages(20) == 20


@pytest.mark.parametrize(
    ("service_s", "least", "most", "expected"),
    [
        (1.0, 1, 1000, 1),
        (0.001, 1, 1000, 50),
        (1e-6, 1, 1000, 1000),
        (1.0, 200, 1000, 200),
        (1.0, 200, 100, 100),
        (0, 0, 0, 1),
    ],
)
def test_the_window_is_a_queue_time_of_work_within_its_limits(
    service_s: float, least: int, most: int, expected: int
) -> None:
    rate = ServiceRate(1)
    rate.measure(1, service_s)
    assert rate.window(0.05, least, most) == expected


@given(st.lists(st.floats(0, 1e4), max_size=10), st.integers(1, 64), st.integers(1, 5000))
def test_sizes_are_at_least_one_and_at_most_what_is_allowed(seconds: list[float], workers: int, most: int) -> None:
    rate = ServiceRate(workers)
    for one in seconds:
        rate.measure(1, one)
    assert 1 <= rate.task_messages(most) <= most
    assert 1 <= rate.window(0.05, workers, most) <= most
