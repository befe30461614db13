"""Outputs that leave by an outlet which no stage reads: counted, nobody waits for them, and all identities hold."""

from __future__ import annotations

import pytest

from zpipe.testing import Simulation
from zpipe.testing.simulated_plugin import Spec

COUNT = 400


def odd(id: str) -> bool:
    return int(id.partition(":")[2].partition(".")[0]) % 2 == 1


def route(id: str) -> str:
    return "odd" if odd(id) else ""


def pipeline(early: bool, read: bool) -> list[Spec]:
    specs = [
        Spec("read", messages=COUNT),
        Spec("sort", (("read", ""),), seconds=lambda instance: 0.002, route=route, early=early),
        Spec("out", (("sort", ""),)),
    ]
    return [*specs, Spec("odd", (("sort", "odd"),))] if read else specs


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("read", [False, True])
def test_every_output_is_on_a_link_or_counted(early: bool, read: bool) -> None:
    sim = Simulation(pipeline(early, read), seed=1)
    assert sim.run(seconds=600.0) and sim.problems == []
    assert sorted(sim.ids("out")) == sorted(f"read:{n}" for n in range(0, COUNT, 2))
    stages = {stage.me.stage: stage for stage in sim.stopped}
    sort = stages["sort"]
    assert sort.counts.unrouted == (0 if read else COUNT // 2)
    assert sort.counts.completed == COUNT == sum(o.produced for o in sort.downstream.links) + sort.counts.unrouted
    assert stages["read"].source is not None and stages["read"].source.finished == COUNT, "nobody waits for them"


def test_a_kill_takes_none_of_the_others_with_it() -> None:
    sim = Simulation(pipeline(early=True, read=False), seed=2)
    for at in (0.1, 0.3, 0.5):
        sim.clock.later(at, lambda: kill(sim))
    assert sim.run(seconds=600.0) and sim.problems == []
    assert set(sim.ids("out")) == {f"read:{n}" for n in range(0, COUNT, 2)}
    assert sim.disks["read", 1].completed


def kill(sim: Simulation) -> None:
    if ("sort", 1) in sim.nodes:
        sim.kill(("sort", 1))
        sim.boot_later(("sort", 1), 0.05)
