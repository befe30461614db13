"""What a failure means: which calls follow, what is counted, and what ends as a dead letter."""

from __future__ import annotations

import pytest

from zpipe.core.downstream.downstream import Downstream
from zpipe.core.ledger import Counts
from zpipe.core.policy import BatchPolicy, LimitPolicy, RetryPolicy, StagePolicy
from zpipe.core.processing.processing import Processing
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.wire import section
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Slice
from zpipe.core.work.task import CallHistory, DeadLetter, Failure, Result, Task, Verdict


class Bench:
    """A stage's processing with `count` messages in its queue and nobody below it."""

    def __init__(self, count: int, policy: StagePolicy) -> None:
        self.counts = Counts()
        self.inlet = Inlet(policy.queue, policy.link, self.counts)
        self.processing = Processing(
            policy,
            self.counts,
            self.inlet,
            Downstream([], policy),
            lambda: 0.5,
            0.0,
        )
        self.finished: list[int] = []
        body = section.encode([f"m{n}" for n in range(count)], [0.0] * count, list(range(count)), None)
        whole = Section(body, count)
        self.delivery = Delivery([whole], lambda _: None)
        self.inlet.queue.append(Slice(self.delivery, whole, 0, 0, count, 0.0))
        self.inlet.queued_bytes = whole.size
        self.counts.received = self.counts.queued = count
        self.now = 0.0
        self.letters: list[DeadLetter] = []

    def run(self, call: dict[int, Failure], until: float = 1000.0) -> list[list[int]]:
        """Runs tasks until nothing is due. `call`: the failure of a message in every call. Returns the calls' messages."""
        calls = []
        while self.now <= until:
            tasks = self.processing.start(self.now, flush=True)
            for task in tasks:
                numbers = [self._number(task, index) for index in range(task.count)]
                calls.append(numbers)
                self.processing.done(task, self._result(task, numbers, call), self.now)
            for letter in self.processing.dead_letters.take(self.now):
                self.letters.append(letter)
                self.processing.dead_letters.written(letter, True, self.now)
            assert self.counts.off() == 0
            if not tasks:
                due = self.processing.next_at(self.now, True)
                if due == float("inf"):
                    break
                self.now = max(due, self.now)
        return calls

    @staticmethod
    def _number(task: Task, index: int) -> int:
        return task.at(index).start

    @staticmethod
    def _result(task: Task, numbers: list[int], call: dict[int, Failure]) -> Result:
        bad = [n for n in numbers if n in call]
        if task.batch and bad:
            first = call[bad[0]]
            return Result(
                [], failures=[Failure(i, first.reason, "", first.verdict, first.delay_s) for i in range(task.count)]
            )
        failures = [
            Failure(i, call[n].reason, "", call[n].verdict, call[n].delay_s) for i, n in enumerate(numbers) if n in call
        ]
        return Result([], failures=failures)

    def dead(self) -> dict[int, CallHistory]:
        return {letter.piece.start: letter.history for letter in self.letters if letter.piece is not None}


def batching(messages: int) -> StagePolicy:
    return StagePolicy(batch=BatchPolicy(messages=messages), retry=RetryPolicy(attempts=3))


def test_a_rejected_message_is_dead_after_one_call() -> None:
    bench = Bench(5, StagePolicy())
    bench.run({2: Failure(0, "no such thing", verdict=Verdict.REJECT)})
    assert bench.dead() == {2: CallHistory(attempts=1, lines=("call 1: no such thing",))}
    assert (bench.counts.completed, bench.counts.dead) == (4, 1)


def test_a_death_is_tried_again_alone_until_deaths_are_used_up() -> None:
    bench = Bench(1, StagePolicy(retry=RetryPolicy(attempts=1, deaths=3)))
    calls = bench.run({0: Failure(0, "SIGSEGV", verdict=Verdict.DEATH)})
    assert calls == [[0]] * 3
    assert bench.dead()[0].deaths == 3 and bench.dead()[0].attempts == 0


def test_throttling_costs_no_attempt() -> None:
    bench = Bench(1, StagePolicy(retry=RetryPolicy(attempts=2, delay_s=1.0, max_delay_s=1.0)))
    calls = bench.run({0: Failure(0, "429", verdict=Verdict.THROTTLED)}, until=50.0)
    assert len(calls) > 50 and not bench.letters
    assert bench.counts.in_process == 1


def test_a_delay_asked_for_is_kept_and_costs_an_attempt() -> None:
    bench = Bench(1, StagePolicy(retry=RetryPolicy(attempts=3, delay_s=0.1)))
    bench.run({0: Failure(0, "later", delay_s=20.0)})
    assert bench.now >= 40.0
    assert bench.dead()[0].attempts == 3


@pytest.mark.parametrize("verdict", [Verdict.RETRY, Verdict.DEATH])
def test_a_batch_with_three_bad_messages_gives_three_dead_letters(verdict: Verdict) -> None:
    bench = Bench(200, batching(200))
    bad = {n: Failure(0, f"bad {n}", verdict=verdict) for n in (0, 77, 199)}
    calls = bench.run(bad)
    assert set(bench.dead()) == {0, 77, 199}
    assert (bench.counts.completed, bench.counts.dead) == (197, 3)
    assert len(calls) < 80
    assert {letter.reason for letter in bench.letters} == {f"bad {n}" for n in bad}
    assert all(history.calls == 3 for history in bench.dead().values())


def test_a_throttled_batch_waits_as_one() -> None:
    bench = Bench(50, batching(50))
    calls = bench.run({7: Failure(0, "429", verdict=Verdict.THROTTLED, delay_s=10.0)}, until=45.0)
    assert [len(call) for call in calls] == [50] * len(calls) and len(calls) in (4, 5)


def test_a_rejected_batch_is_dead_as_one() -> None:
    bench = Bench(20, batching(20))
    assert len(bench.run({3: Failure(0, "closed", verdict=Verdict.REJECT)})) == 1
    assert len(bench.letters) == 20


def test_messages_that_shared_a_task_with_a_death_go_on_uncounted() -> None:
    bench = Bench(3, StagePolicy())
    task = bench.processing.start(0.0, True)[0]
    while task.count < 3:  # the first tasks are small, before the service rate is known
        bench = Bench(3, StagePolicy())
        bench.processing._service_rate.measure(1000, 0.001)
        task = bench.processing.start(0.0, True)[0]
    again = Failure(0, "", verdict=Verdict.AGAIN)
    failures = [Failure(0, "", verdict=Verdict.AGAIN), Failure(1, "SIGSEGV", verdict=Verdict.DEATH), again]
    failures[2].index = 2
    bench.processing.done(task, Result([], failures=failures), 0.0)
    later = bench.processing.start(0.0, True)
    histories = {t.at(0).start: t.history for t in later}
    while len(histories) < 3:
        for t in later:
            bench.processing.done(t, Result([]), 0.0)
        later = bench.processing.start(0.0, True)
        histories |= {t.at(0).start: t.history for t in later}
    assert histories == {0: CallHistory(), 1: CallHistory(deaths=1, lines=("call 1: SIGSEGV",)), 2: CallHistory()}


def answered(answers: list[Failure]) -> Bench:
    """A batch of as many messages, each with its own answer in the first call."""
    bench = Bench(len(answers), batching(len(answers)))
    [task] = bench.processing.start(0.0, True)
    for index, failure in enumerate(answers):
        failure.index = index
    bench.processing.done(task, Result([], failures=answers), 0.0)
    return bench


def test_a_batch_whose_messages_all_fail_each_in_its_own_way_is_not_one_failure() -> None:
    rejects = [Failure(0, f"r{n}", verdict=Verdict.REJECT) for n in range(3)]
    bench = answered([*rejects, Failure(0, "slow down", verdict=Verdict.THROTTLED, delay_s=5.0)])
    letters = bench.processing.dead_letters.take(0.0)
    assert [letter.reason for letter in letters] == ["r0", "r1", "r2"]
    assert bench.processing.retries.messages == 1 and bench.processing.retries.next_at >= 5.0


def test_delays_asked_for_in_a_batch_are_each_message_s_own() -> None:
    bench = answered([Failure(0, "later", delay_s=float(n)) for n in (9, 1, 4)])
    assert 1.0 <= bench.processing.retries.next_at < 4.0
    due = [bench.processing.retries.pop()[0][0].start for _ in range(3)]
    assert due == [1, 2, 0]


@pytest.mark.parametrize(("service_s", "under_way"), [(0.0199, 2), (0.02, 1)])
def test_one_task_is_kept_ahead_of_a_worker_while_calls_are_short(service_s: float, under_way: int) -> None:
    bench = Bench(10, StagePolicy())
    bench.processing._service_rate.measure(1, service_s)
    assert [task.count for task in bench.processing.start(0.0, True)] == [1] * under_way


@pytest.mark.parametrize(
    ("queued", "call_s", "under_way"),
    [
        (12, 0.0199, [4, 4]),
        (8, 0.0199, [4, 4]),
        (7, 0.0199, [4]),  # what is left is no full batch, and may grow to one while the first is worked on
        (12, 0.0201, [4]),
    ],
)
def test_a_full_batch_is_kept_ahead_of_a_worker_while_calls_are_short(
    queued: int, call_s: float, under_way: list[int]
) -> None:
    bench = Bench(queued, StagePolicy(batch=BatchPolicy(messages=4)))
    bench.processing._service_rate.measure(4, call_s)
    tasks = bench.processing.start(0.0, True)
    assert [task.count for task in tasks] == under_way
    left = bench.counts.queued
    bench.processing.done(tasks[0], Result([]), 0.0)
    following = bench.processing.start(0.0, True)
    assert sum(task.count for task in following) <= left and bench.counts.off() == 0


def test_no_batch_is_kept_ahead_where_calls_are_limited() -> None:
    bench = Bench(12, StagePolicy(batch=BatchPolicy(messages=4), limit=LimitPolicy("fixed", max=1)))
    bench.processing._service_rate.measure(4, 0.001)
    assert [task.count for task in bench.processing.start(0.0, True)] == [4]
