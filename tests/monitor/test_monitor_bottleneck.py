"""Pipelines with a known bottleneck, run by real cores on a virtual clock: what the monitor makes of their snapshots."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from monitor_samples import CHAIN, UNSENT_BOUND, budget, config, link, snapshot
from watched import ENDLESS, Watched

from zpipe.core.policy import MIB, BatchPolicy, Bound, LimitPolicy, RetryPolicy, StagePolicy
from zpipe.monitor.model import Model
from zpipe.testing import Spec

# Sections are small in a simulation; a source is then woken in steps of a few hundred, as in daemons.
POLICY = StagePolicy(unacked=Bound(200, 128 * MIB))


def head(per_second: float) -> Spec:
    return Spec("read", messages=ENDLESS, record_s=1 / per_second, policy=POLICY)


def stage(name: str, after: str, seconds: float, **more: Any) -> Spec:
    return Spec(name, inputs=((after, ""),), seconds=lambda instance: seconds, **{"policy": POLICY} | more)


def fails_often(id: str, attempt: int) -> list[str]:
    """What it calls refuses each message three times."""
    if attempt <= 3:
        raise ValueError("unavailable")
    return [id]


@dataclass
class Case:
    """`needed`: how many instances of the slow stage would keep up with its neighbours; None: no number of them."""

    specs: list[Spec]
    slow: str
    kind: str
    needed: float | None
    says: list[str] = field(default_factory=list)


CASES = {
    "slow source": Case(
        [head(50), stage("map", "read", 0.002), stage("sink", "map", 0.002)], "read", "source", None, ["gives 50"]
    ),
    "slow middle": Case(
        [head(200), stage("map", "read", 0.02), stage("sink", "map", 0.001)],
        "map",
        "working",
        4,
        ["working", "read blocked 75%", "keep up with read"],
    ),
    "slow sink": Case(
        [head(150), stage("map", "read", 0.001), stage("sink", "map", 0.025)], "sink", "working", 3.75, ["map blocked"]
    ),
    "slow batch": Case(
        [
            head(400),
            stage("map", "read", 0.0005),
            stage("sink", "map", 0.01, policy=replace(POLICY, batch=BatchPolicy(50, MIB, 1.0))),
        ],
        "sink",
        "working",
        4,
        ["on batches of up to 50"],
    ),
    "fan-out too small": Case(
        [head(300), stage("map", "read", 0.02, instances=2), stage("sink", "map", 0.001)],
        "map",
        "working",
        6,
        ["map x2 is the limit"],
    ),
    "too few workers, two of them": Case(
        [head(300), stage("map", "read", 0.02, policy=replace(POLICY, workers=2)), stage("sink", "map", 0.001)],
        "map",
        "working",
        3,
    ),
    "a stage after it is the next limit": Case(
        [head(500), stage("map", "read", 0.02), stage("sink", "map", 0.008)],
        "map",
        "working",
        2.5,
        ["keep up with sink"],
    ),
    "limited by AIMD": Case(
        [
            head(200),
            stage("call", "read", 0.05, policy=replace(POLICY, workers=10, limit=LimitPolicy("aimd", 1, 2))),
            stage("sink", "call", 0.001),
        ],
        "call",
        "limited",
        None,
        ["by its limit of calls at once (2 now)"],
    ),
    "a retrying dependency": Case(
        [
            head(100),
            stage("call", "read", 0.001, plan=fails_often, policy=replace(POLICY, retry=RetryPolicy(5, 1.0, 8.0, 3))),
            stage("sink", "call", 0.001),
        ],
        "call",
        "retrying",
        None,
        ["try failed calls again"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_right_stage_is_named_with_the_right_reason(name: str) -> None:
    case = CASES[name]
    watched = Watched(case.specs)
    watched.run(40.0)
    value = watched.value
    found = value["bottleneck"]
    assert watched.sim.problems == []
    assert found is not None, value
    assert (found["stage"], found["kind"]) == (case.slow, case.kind), found
    text = f"{found['why']}; {found['advice']}"
    assert all(part in text for part in case.says), text
    if case.needed is None:
        assert found["instances_needed"] is None
    else:
        assert abs(found["instances_needed"] - math.ceil(case.needed)) <= 1, text
    for row in value["stages"].values():
        assert sum(row["budget"].values()) == pytest.approx(1.0, abs=0.01)
        for one in row["instances"]:
            assert sum(one["budget"].values()) == pytest.approx(1.0, abs=0.01)


def test_a_limited_stage_is_named_with_the_limit_in_force() -> None:
    model = Model(config(CHAIN))
    limit = {"limit": 4, "under_way": 4, "reason": "throttled", "changed_s": 3.0}
    model.add(snapshot("read", [link("map", 4000, unsent=UNSENT_BOUND)], budget=budget(blocked=0.9)))
    model.add(snapshot("map", [link("sink", 1000)], budget=budget(working=0.3, limited=0.7), rate_in=9.0, limit=limit))
    model.add(snapshot("sink", budget=budget(working=0.01)))
    found = model.as_json(100.0)["bottleneck"]
    assert (found["stage"], found["kind"], found["instances_needed"]) == ("map", "limited", None)
    assert "held back 70% of the time by its limit of calls at once (4 now)" in found["why"]


def test_a_paused_stage_is_named_and_what_to_do() -> None:
    watched = Watched([head(100), stage("map", "read", 0.001), stage("sink", "map", 0.001)])
    watched.run(10.0)
    watched.sim.pause(("map", 1), 1000.0)
    found = watched.run(5.0)["bottleneck"]
    assert (found["stage"], found["kind"], found["advice"]) == ("map", "paused", "resume map")
