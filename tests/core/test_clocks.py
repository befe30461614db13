"""Machines whose clocks differ by an hour: nothing that a stage decides or says of itself compares two of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from zpipe.core.policy import MIB, Bound, StagePolicy
from zpipe.testing.network import Faults
from zpipe.testing.simulated_plugin import Spec
from zpipe.testing.simulation import Simulation

MESSAGES, HOUR_S = 300, 3600.0
POLICY = StagePolicy(queue=Bound(20, MIB))
ROUGH = Faults(drop=0.05, duplicate=0.1, delay_s=0.02, reorder=True)


def ages(snapshot: dict[str, Any]) -> list[float]:
    """All times of a snapshot that are measured, and not since the epoch."""
    links = [link["oldest_s"] for link in snapshot["links"]]
    return [snapshot["oldest_s"], *links, *snapshot["latency"].get("in_stage", {}).values()]


@pytest.mark.parametrize("ahead_s", [HOUR_S, -900.0], ids=["an hour ahead", "a quarter behind"])
@pytest.mark.parametrize("faults", [None, ROUGH], ids=["sound", "rough"])
def test_clocks_apart_change_nothing(ahead_s: float, faults: Faults | None) -> None:
    specs = [
        Spec("a", messages=MESSAGES, policy=POLICY),
        Spec("b", (("a", ""),), instances=2, policy=POLICY, ahead_s=ahead_s),
        Spec("c", (("b", ""),), policy=POLICY, ahead_s=ahead_s / 4),
    ]
    sim = Simulation(specs, 16, faults)
    seen: list[float] = []
    sim.watcher = lambda snapshot, now: seen.extend(ages(snapshot))
    began = sim.now
    assert sim.run(lambda: len(sim.stored) > MESSAGES // 3, seconds=60)
    sim.kill(("b", 1))
    sim.boot("b", 1)
    sim.freeze(("b", 2), 7.0)  # longer than peers wait
    assert sim.run(seconds=120), "nobody waits for the clock of another"
    assert sim.problems == []
    assert set(Counter(sim.ids("c"))) == {f"a:{n}" for n in range(MESSAGES)}
    assert seen and min(seen) >= 0.0 and max(seen) <= sim.now - began
