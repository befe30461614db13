from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.downstream.downstream import Downstream
from zpipe.core.ledger import Counts
from zpipe.core.policy import BatchPolicy, StagePolicy
from zpipe.core.processing.processing import Processing
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Slice
from zpipe.testing import Simulation, Spec

POLICY = BatchPolicy(messages=10, bytes=100, timeout_s=2.0)
NEVER = float("inf")


def ready_at(messages: int, size: int, first_at: float, flush: bool, now: float) -> float:
    """When a stage with so many messages of so many bytes in its queue hands them over."""
    policy, counts = StagePolicy(batch=POLICY), Counts()
    inlet = Inlet(policy.queue, policy.link, counts)
    below = Downstream([], policy)
    if messages:
        section = Section(b"x" * size, messages)
        inlet.queue.append(Slice(Delivery([section], lambda _: None), section, 0, 0, messages, first_at))
        inlet.queued_bytes = size
        counts.receive(queued=messages)
    return Processing(policy, counts, inlet, below, lambda: 0.5, now).next_at(now, flush)


@pytest.mark.parametrize(
    ("messages", "size", "flush", "expected"),
    [
        (0, 0, False, NEVER),
        (0, 0, True, NEVER),
        (1, 1, False, 7.0),
        (1, 1, True, 6.0),
        (9, 99, False, 7.0),
        (10, 10, False, 6.0),
        (11, 11, False, 6.0),
        (1, 100, False, 6.0),
        (1, 101, False, 6.0),
    ],
)
def test_when_a_batch_is_ready(messages: int, size: int, flush: bool, expected: float) -> None:
    assert ready_at(messages, size, first_at=5.0, flush=flush, now=6.0) == expected


def test_the_timeout_counts_from_the_first_message_and_may_be_over() -> None:
    assert ready_at(1, 1, first_at=1.0, flush=False, now=6.0) == 3.0


@given(st.integers(1, 20), st.integers(1, 200), st.booleans(), st.floats(0, 10))
def test_no_batch_waits_beyond_its_timeout(messages: int, size: int, flush: bool, now: float) -> None:
    assert ready_at(messages, size, 0.0, flush, now) <= max(now, POLICY.timeout_s)


@pytest.mark.parametrize("timeout_s", [30.0, 300.0])
def test_a_drain_does_not_wait_for_a_batch_timeout(timeout_s: float) -> None:
    policy = StagePolicy(batch=BatchPolicy(messages=200, timeout_s=timeout_s))
    sim = Simulation([Spec("a", messages=50), Spec("b", inputs=(("a", ""),), policy=policy)])
    start = sim.now
    assert sim.run(seconds=2000.0)
    assert len(sim.stored) == 50 and not sim.problems
    assert sim.now - start < 10.0
