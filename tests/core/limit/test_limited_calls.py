"""A stage under a limit: what is a call, what a result tells the limiter, and what the stage says of itself."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.downstream.downstream import Downstream
from zpipe.core.ledger import Counts
from zpipe.core.limit.limiter import Limiter
from zpipe.core.policy import BatchPolicy, LimitPolicy, StagePolicy
from zpipe.core.processing.processing import Processing
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.wire import section
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Slice
from zpipe.core.work.task import CallHistory, Failure, Result, Task, Verdict
from zpipe.testing import Simulation, Spec


def slices(count: int) -> Slice:
    whole = Section(section.encode([f"m{n}" for n in range(count)], [0.0] * count, list(range(count)), None), count)
    return Slice(Delivery([whole], lambda _: None), whole, 0, 0, count, 0.0)


def processing(policy: StagePolicy, count: int) -> Processing:
    """With so many messages queued."""
    counts = Counts()
    inlet = Inlet(policy.queue, policy.link, counts)
    inlet.queue.append(slices(count))
    counts.received = counts.queued = count
    return Processing(policy, counts, inlet, Downstream([], policy), lambda: 0.5, 0.0)


def test_a_call_is_one_message_or_one_batch() -> None:
    limit = LimitPolicy("fixed", max=3)
    alone = processing(StagePolicy(workers=10, limit=limit), 100)
    assert [task.count for task in alone.start(0.0, False)] == [1, 1, 1]
    batches = processing(StagePolicy(workers=10, limit=limit, batch=BatchPolicy(20)), 100)
    assert [task.count for task in batches.start(0.0, False)] == [20, 20, 20]
    few = processing(StagePolicy(workers=2, limit=limit), 100)
    assert len(few.start(0.0, False)) == 2


def test_it_says_that_the_limit_holds_it_back_and_wakes_by_the_rate() -> None:
    stage = processing(StagePolicy(workers=10, limit=LimitPolicy("fixed", max=None, rate=0.5)), 100)
    [task] = stage.start(0.0, False)
    assert stage.next_at(0.0, False) == pytest.approx(2.0, abs=0.02)
    stage.note_idle(0.0, None, False)
    stage.spend(1.0)
    shares = stage.budget.take()
    assert (shares["working"], shares["limited"]) == pytest.approx((0.1, 0.9))
    report = {"limit": None, "rate": 0.5, "under_way": 1, "reason": "fixed", "changed_s": 1.0}
    assert stage.limiter.report(1.0) == report
    assert task.count == 1
    assert len(stage.start(2.0, False)) == 1


def test_a_stage_asks_for_what_its_limit_can_use() -> None:
    stage = processing(StagePolicy(workers=200, limit=LimitPolicy("aimd", start=10, max=200)), 0)
    stage.size_window()
    assert stage._inlet.window == 20


ALL = [Failure(0, "r", verdict=Verdict.RETRY), Failure(1, "r", verdict=Verdict.RETRY)]


@pytest.mark.parametrize(
    ("failures", "throttled", "failed"),
    [
        ([], False, False),
        (ALL[:1], False, False),
        (ALL, False, True),
        ([Failure(n, "r", verdict=Verdict.REJECT) for n in range(2)], False, False),
        ([ALL[0], Failure(1, "r", verdict=Verdict.THROTTLED)], True, False),
        ([Failure(n, "r", verdict=Verdict.DEATH) for n in range(2)], False, True),
    ],
)
def test_what_a_result_tells(failures: list[Failure], throttled: bool, failed: bool) -> None:
    limiter = Limiter(LimitPolicy("aimd", start=10), 0.0)
    told = []
    limiter.finished = lambda *given: told.append(given)  # type: ignore[method-assign]
    limiter.ended(Task(1, [slices(2)], CallHistory(), True), Result([], failures=failures, seconds=0.5), 3.0)
    assert told == [(3.0, 0.5, throttled, failed, None)]


def test_the_longest_wait_that_was_asked_for_counts() -> None:
    limiter = Limiter(LimitPolicy("aimd", start=1), 0.0)
    limiter.started(0.0)
    failures = [Failure(n, "r", verdict=Verdict.THROTTLED, delay_s=delay) for n, delay in enumerate((None, 7.0, 3.0))]
    limiter.ended(Task(1, [slices(3)], CallHistory(), True), Result([], failures=failures), 1.0)
    assert limiter.next_at() == 8.0


def test_a_limit_comes_and_goes_while_calls_are_under_way() -> None:
    limiter = Limiter(None, 0.0)
    assert limiter.next_at() == -math.inf and limiter.report(0.0) is None and limiter.at_once(7) == 7
    for _ in range(5):
        limiter.started(0.0)
    limiter.change(LimitPolicy("fixed", max=3), 1.0)
    assert not limiter.may_start(1.0)
    for _ in range(5):
        limiter.ended(Task(1, [slices(1)], CallHistory(), False), Result([]), 2.0)
    assert limiter.may_start(2.0) and limiter.at_once(7) == 3
    limiter.change(None, 3.0)
    assert limiter.report(3.0) is None


@given(
    st.builds(
        LimitPolicy, st.sampled_from(["aimd", "fixed"]), st.integers(1, 5), st.integers(5, 9), st.none() | st.just(50.0)
    ),
    st.integers(1, 12),
    st.integers(1, 3),
)
def test_a_limited_pipeline_ends_with_each_message_once(limit: LimitPolicy, workers: int, instances: int) -> None:
    policy = StagePolicy(workers=workers, limit=limit)
    work = Spec("b", inputs=(("a", ""),), instances=instances, policy=policy, seconds=lambda _: 0.02)
    sim = Simulation([Spec("a", messages=60), work])
    assert sim.run(seconds=100.0) and not sim.problems
    assert len({one.id for one in sim.stored}) == len(sim.stored) == 60
