"""What a message costs the core: Python calls in a simulated pipeline, which no other load on the machine changes.

The pipeline is as busy as a real one whose processes have to share few cores: its source gives as much as it may, and many
instances of the middle stage could each do it all.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import zpipe.core
from zpipe.core.policy import MIB, Bound, StagePolicy
from zpipe.testing import Simulation, Spec, simulation

CORE = str(Path(zpipe.core.__file__).parent)
WARM_UP = 20_000
MESSAGES = 40_000
REST = 40_000
"""So that what is measured is neither a start nor an end."""


class Calls:
    """Counts calls in the core while it is entered: of its own functions, and of built-in ones by them."""

    def __init__(self) -> None:
        self.count = 0
        self._ours: dict[Any, bool] = {}

    def __enter__(self) -> Calls:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if event in ("call", "c_call"):
            code = frame.f_code
            ours = self._ours.get(code)
            if ours is None:
                ours = self._ours[code] = code.co_filename.startswith(CORE)
            self.count += ours


def calls_a_message(instances: int, unacked: int = 200_000) -> float:
    """Without the simulation's own checks, which look at all there is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "breaches", lambda *_: ())
        patch.setattr(simulation, "ANEW", sys.maxsize)
        return _calls_a_message(instances, StagePolicy(unacked=Bound(unacked, 128 * MIB)))


def _calls_a_message(instances: int, policy: StagePolicy) -> float:
    sim = Simulation(
        [
            Spec("a", messages=WARM_UP + MESSAGES + REST, section=256, policy=policy),
            Spec("b", inputs=(("a", ""),), instances=instances, seconds=lambda instance: 2e-6),
            Spec("c", inputs=(("b", ""),), seconds=lambda instance: 1e-6),
        ]
    )
    assert sim.run(lambda: len(sim.stored) >= WARM_UP)
    begun = len(sim.stored)
    with Calls() as calls:
        assert sim.run(lambda: len(sim.stored) >= begun + MESSAGES)
    return calls.count / (len(sim.stored) - begun)


MOST_CALLS = {1: 15.5, 4: 17.5, 16: 18.0, 64: 25.0}
"""Calls a message by instances of the middle stage. With many, parcels are smaller, and what a parcel costs is shared by fewer
messages; what must not be is a cost that grows with the number of sessions."""
MOST_WITH_A_SHUT_WINDOW = 30.5


@pytest.mark.parametrize("instances", MOST_CALLS)
def test_a_message_costs_about_the_same_with_many_instances(instances: int) -> None:
    assert calls_a_message(instances) < MOST_CALLS[instances]


def test_a_window_that_is_shut_again_and_again_costs_little() -> None:
    """A source that announced each time to all instances that it waits for acks would wake them all."""
    assert calls_a_message(64, unacked=20_000) < MOST_WITH_A_SHUT_WINDOW
