from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.policy import BatchPolicy, StagePolicy
from zpipe.core.processing.batch import ready_at
from zpipe.testing import Simulation, Spec

POLICY = BatchPolicy(messages=10, bytes=100, timeout_s=2.0)


@pytest.mark.parametrize(
    ("messages", "size", "hurry", "expected"),
    [
        (0, 0, False, None),
        (0, 0, True, None),
        (1, 1, False, 7.0),
        (1, 1, True, 6.0),
        (9, 99, False, 7.0),
        (10, 10, False, 6.0),
        (11, 11, False, 6.0),
        (1, 100, False, 6.0),
        (1, 101, False, 6.0),
    ],
)
def test_when_a_batch_is_ready(messages: int, size: int, hurry: bool, expected: float | None) -> None:
    assert ready_at(POLICY, messages, size, first_at=5.0, hurry=hurry, now=6.0) == expected


def test_the_timeout_counts_from_the_first_message_and_may_be_over() -> None:
    assert ready_at(POLICY, 1, 1, first_at=1.0, hurry=False, now=6.0) == 3.0


@given(st.integers(1, 20), st.integers(1, 200), st.booleans(), st.floats(0, 10))
def test_no_batch_waits_beyond_its_timeout(messages: int, size: int, hurry: bool, now: float) -> None:
    at = ready_at(POLICY, messages, size, 0.0, hurry, now)
    assert at is not None and at <= max(now, POLICY.timeout_s)


@pytest.mark.parametrize("timeout_s", [30.0, 300.0])
def test_a_drain_does_not_wait_for_a_batch_timeout(timeout_s: float) -> None:
    policy = StagePolicy(batch=BatchPolicy(messages=200, timeout_s=timeout_s))
    sim = Simulation([Spec("a", messages=50), Spec("b", inputs=(("a", ""),), policy=policy)])
    start = sim.now
    assert sim.run(seconds=2000.0)
    assert len(sim.stored) == 50 and not sim.problems
    assert sim.now - start < 10.0
