from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.policy import RetryPolicy
from zpipe.core.processing.retries import SPREAD, Retries
from zpipe.core.processing.service_rate import ServiceRate
from zpipe.core.wire import section
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Slice
from zpipe.core.work.task import HISTORY_LINES, CallHistory, Failure, Task, Verdict


def slices(*counts: int) -> list[Slice]:
    made = []
    for count in counts:
        body = section.encode([str(n) for n in range(count)], [0.0] * count, list(range(count)), None)
        one = Section(body, count)
        delivery = Delivery([one], lambda _: None)
        made.append(Slice(delivery, one, 0, 0, count, 0.0))
    return made


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


@given(st.lists(st.sampled_from([verdict for verdict in Verdict if verdict is not Verdict.FAIL]), max_size=60))
def test_a_history_counts_what_happened(verdicts: list[Verdict]) -> None:
    history = CallHistory()
    for verdict in verdicts:
        history = history.after(Failure(0, verdict.value, verdict=verdict))
    assert history.attempts == verdicts.count(Verdict.RETRY) + verdicts.count(Verdict.REJECT)
    assert history.deaths == verdicts.count(Verdict.DEATH)
    assert history.throttles <= verdicts.count(Verdict.THROTTLED)
    assert len(history.lines) == min(history.calls, HISTORY_LINES)


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


def test_pace_before_the_first_measure() -> None:
    pace = ServiceRate(4)
    assert pace.service_s is None and pace.rate == 0.0
    assert pace.task_messages(512) == 1
    assert pace.window(0.05, least=4, most=1000) == 4


def test_pace_follows_what_is_measured() -> None:
    pace = ServiceRate(2)
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
    pace = ServiceRate(1)
    pace.measure(1, service_s)
    assert pace.window(0.05, least, most) == expected


@given(st.lists(st.floats(0, 1e4), max_size=10), st.integers(1, 64), st.integers(1, 5000))
def test_sizes_are_at_least_one_and_at_most_what_is_allowed(seconds: list[float], workers: int, most: int) -> None:
    pace = ServiceRate(workers)
    for one in seconds:
        pace.measure(1, one)
    assert 1 <= pace.task_messages(most) <= most
    assert 1 <= pace.window(0.05, workers, most) <= most
