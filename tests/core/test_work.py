from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core import section
from zpipe.core.delivery import Delivery, Slice
from zpipe.core.policy import RetryPolicy
from zpipe.core.section import Section
from zpipe.core.work import Pace, Retries, Task


def slices(*counts: int) -> list[Slice]:
    made = []
    for count in counts:
        body = section.encode([str(n) for n in range(count)], [0.0] * count, list(range(count)), None)
        one = Section(body, count)
        delivery = Delivery(None, 1, [one], lambda _: None)  # type: ignore[arg-type]
        made.append(Slice(delivery, one, 0, 0, count, 0.0))
    return made


def where(pieces: list[Slice]) -> list[tuple[int, int]]:
    return [(id(piece.section), at) for piece in pieces for at in range(piece.start, piece.stop)]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_a_task_finds_each_message_and_halves_without_loss(counts: list[int]) -> None:
    pieces = slices(*counts)
    task = Task(1, pieces, 1, True)
    assert task.count == sum(counts)
    assert where([task.at(n) for n in range(task.count)]) == where(pieces)
    with pytest.raises(IndexError):
        task.at(task.count)
    first, second = task.halves()
    assert where(first) + where(second) == where(pieces)
    assert len(where(first)) == task.count // 2


def test_delays_double_up_to_the_most_and_spread_over_their_upper_half() -> None:
    retries = Retries(RetryPolicy(attempts=5, delay_s=1.0, max_delay_s=10.0))
    assert [retries.delay_s(n, 0.999999) for n in range(1, 7)] == pytest.approx([1, 2, 4, 8, 10, 10], rel=1e-5)
    assert [retries.delay_s(n, 0.0) for n in range(1, 7)] == pytest.approx([0.5, 1, 2, 4, 5, 5])
    assert retries.delay_s(10_000, 0.0) == 5.0


def test_attempts_are_finite() -> None:
    retries = Retries(RetryPolicy(attempts=3))
    assert [retries.exhausted(n) for n in (1, 2, 3, 4)] == [False, False, True, True]
    assert Retries(RetryPolicy(attempts=1)).exhausted(1)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 4)), max_size=12), st.floats(0, 10))
def test_retries_come_when_they_are_due_and_in_order(entries: list[tuple[float, int]], now: float) -> None:
    retries = Retries(RetryPolicy())
    for n, (due_at, count) in enumerate(entries):
        retries.add(slices(count), n, due_at)
    assert retries.messages == sum(count for _, count in entries)
    assert retries.next_at == min((at for at, _ in entries), default=math.inf)
    popped = []
    while (due := retries.pop_due(now)) is not None:
        popped.append(due[1])
    expected = sorted((at, n) for n, (at, _) in enumerate(entries) if at <= now)
    assert popped == [n for _, n in expected]
    assert retries.messages == sum(count for at, count in entries if at > now)


def test_pace_before_the_first_measure() -> None:
    pace = Pace(4)
    assert pace.service_s is None and pace.rate == 0.0
    assert pace.task_messages(512) == 1
    assert pace.window(0.05, least=4, most=1000) == 4


def test_pace_follows_what_is_measured() -> None:
    pace = Pace(2)
    pace.measure(10, 0.1)
    assert pace.service_s == pytest.approx(0.01) and pace.rate == pytest.approx(200)
    for _ in range(60):
        pace.measure(1, 0.0001)
    assert pace.service_s == pytest.approx(0.0001, rel=0.01)
    assert pace.task_messages(512) == pytest.approx(50, abs=1)
    assert pace.task_messages(20) == 20


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
    pace = Pace(1)
    pace.measure(1, service_s)
    assert pace.window(0.05, least, most) == expected


@given(st.lists(st.floats(0, 1e4), max_size=10), st.integers(1, 64), st.integers(1, 5000))
def test_sizes_are_at_least_one_and_at_most_what_is_allowed(seconds: list[float], workers: int, most: int) -> None:
    pace = Pace(workers)
    for one in seconds:
        pace.measure(1, one)
    assert 1 <= pace.task_messages(most) <= most
    assert 1 <= pace.window(0.05, workers, most) <= most
