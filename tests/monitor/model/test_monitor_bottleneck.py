"""Pipelines with a known bottleneck, run by real cores on a virtual clock: what the monitor makes of their snapshots."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from monitor_samples import CHAIN, UNSENT_BOUND, budget, config, link, snapshot
from watched import ENDLESS, Watched
from watched import link as link_of

from zpipe.core.policy import MIB, BatchPolicy, Bound, LimitPolicy, RetryPolicy, StagePolicy
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.testing import Spec

# Sections are small in a simulation; a source is then woken in steps of a few hundred, as in daemons.
POLICY = StagePolicy(unacked=Bound(200, 128 * MIB))


def head(per_second: float) -> Spec:
    return Spec("read", messages=ENDLESS, record_s=1 / per_second, policy=POLICY)


def little(messages: int) -> StagePolicy:
    """A stage that may have only so many messages on a link without an ack."""
    return replace(POLICY, unacked=Bound(messages, MIB))


def stage(name: str, after: str, seconds: float, workers: int = 1, **more: Any) -> Spec:
    return Spec(
        name,
        inputs=((after, ""),),
        seconds=lambda instance: seconds,
        **{"policy": replace(POLICY, workers=workers)} | more,
    )


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
        ["working", "read blocked 7", "keep up with read"],
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
        [head(75), stage("map", "read", 0.08, instances=2), stage("sink", "map", 0.001)],
        "map",
        "working",
        6,
        ["map x2 is the limit"],
    ),
    "too few workers, two of them": Case(
        [head(75), stage("map", "read", 0.08, workers=2), stage("sink", "map", 0.001)],
        "map",
        "working",
        3,
    ),
    "a stage after it is the next limit": Case(
        [head(250), stage("map", "read", 0.04), stage("sink", "map", 0.016)],
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
    "a source that could do forty times as much": Case(
        [head(400), stage("map", "read", 0.1), stage("sink", "map", 0.001)],
        "map",
        "working",
        40,
        ["keep up with read"],
    ),
    "a stage between that could do far more": Case(
        [head(1000), stage("pass", "read", 0.0001), stage("map", "pass", 0.1, workers=2), stage("sink", "map", 0.0001)],
        "map",
        "working",
        50,
        ["pass blocked", "keep up with read"],
    ),
    "a head stopped by its bound, two stages before the slow one": Case(
        [
            replace(head(200), policy=little(20)),
            stage("map", "read", 0.001),
            stage("slow", "map", 0.02),
            stage("sink", "slow", 0.001),
        ],
        "slow",
        "working",
        4,
        ["read blocked 9", "keep up with read"],
    ),
    "a bound too small to keep anybody at work": Case(
        [
            replace(head(500), policy=little(1)),
            stage("map", "read", 0.02, policy=replace(POLICY, workers=4)),
            stage("sink", "map", 0.02, policy=replace(POLICY, workers=4)),
        ],
        "read",
        "unacked",
        None,
        ["by its bound of 1 unacked messages", "a larger `unacked` of read"],
    ),
    "a bound smaller than a batch": Case(
        [
            replace(head(100), policy=little(30)),
            stage("sink", "read", 0.005, policy=replace(POLICY, batch=BatchPolicy(50, MIB, 5.0))),
        ],
        "read",
        "unacked",
        None,
        ["by its bound of 30 unacked messages"],
    ),
    "limited to a rate, and hardly idle": Case(
        [
            head(50),
            stage("call", "read", 0.16, policy=replace(POLICY, limit=LimitPolicy("fixed", max=None, rate=5.0))),
            stage("sink", "call", 0.001),
        ],
        "call",
        "limited",
        None,
        ["by its limit of 5 calls a second", "raise `limit.rate`"],
    ),
    "a stage that only just keeps up": Case(
        [head(50), stage("map", "read", 0.0195), stage("sink", "map", 0.001)],
        "read",
        "source",
        None,
        ["gives 50", "map, barely: it works 9"],
    ),
    "a stage that does not quite keep up": Case(
        [head(50), stage("map", "read", 0.022), stage("sink", "map", 0.001)], "map", "working", 2
    ),
    "one of two branches is slow": Case(
        [head(100), stage("fast", "read", 0.001), stage("slow", "read", 0.02)], "slow", "working", 2
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
    watched.run(15.0)
    named = []
    for _ in range(10):
        value = watched.run(1.0)
        found = value["bottleneck"]
        named.append((found or {}).get("stage"))
        if found and found["instances_needed"] is not None:
            assert found["instances_needed"] > value["stages"][case.slow]["live"], found
    assert named == [case.slow] * 10
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
    model = PipelineModel(config(CHAIN))
    limit = {"limit": 4, "under_way": 4, "reason": "throttled", "changed_s": 3.0}
    model.add(snapshot("read", [link("map", 4000, unsent=UNSENT_BOUND)], budget=budget(blocked=0.9)))
    model.add(snapshot("map", [link("sink", 1000)], budget=budget(working=0.3, limited=0.7), rate_in=9.0, limit=limit))
    model.add(snapshot("sink", budget=budget(working=0.01)))
    found = model.as_json(100.0)["bottleneck"]
    assert (found["stage"], found["kind"], found["instances_needed"]) == ("map", "limited", None)
    assert "held back 70% of the time by its limit of calls at once (4 now)" in found["why"]


def test_a_stage_held_by_its_circuit_breaker_is_named_with_what_it_says() -> None:
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("read", [link("map", 4000, unsent=UNSENT_BOUND)], budget=budget(blocked=0.9)))
    model.add(
        snapshot("map", [link("sink", 1000)], queued=50, stopped_by="60 of the last 100 messages died: zpipe resume")
    )
    model.add(snapshot("sink"))
    found = model.as_json(100.0)["bottleneck"]
    assert (found["stage"], found["kind"], found["instances_needed"]) == ("map", "held", None)
    assert found["why"].endswith("messages wait for it: 60 of the last 100 messages died: zpipe resume")


def test_no_bound_is_blamed_after_what_held_a_stage_is_over() -> None:
    """The long window is full of the time in which nobody worked, and those after it work all the time again."""
    model = PipelineModel(config(CHAIN))
    found = []
    for at in range(36):
        held = at < 30
        done = 0 if held else 300 * (at - 29)
        model.add(
            snapshot(
                "read",
                [link("map", 4000, unsent=UNSENT_BOUND)],
                budget=budget(blocked=0.9),
                at=float(at),
                received=4000,
            )
        )
        by = {"stopped_by": "a storm"} if held else {"budget": budget(blocked=0.9), "completed": done}
        model.add(snapshot("map", [link("sink", done + 50)], queued=50, at=float(at), received=done + 50, **by))
        work = budget(working=0.0 if held else 0.99)
        model.add(snapshot("sink", budget=work, received=done, completed=done, at=float(at)))
        if at > 31:  # the last few intervals show it from the third on
            found.append(model.as_json(float(at))["bottleneck"])
    assert [one for one in found if one is not None and one["kind"] == "unacked"] == []


@pytest.mark.parametrize(("busy", "needed"), [(0.04, 50), (0.1, 10)])
def test_a_stage_that_is_hardly_busy_does_not_tell_what_it_could_take(busy: float, needed: int) -> None:
    model = PipelineModel(config(CHAIN))
    for at in (0.0, 1.0, 2.0):
        passed = int(10 * at)
        source = {"read_messages": int(500 * at), "read_s": at}
        model.add(
            snapshot("read", [link("map", 2048 + passed, unsent=2048)], budget=budget(blocked=0.9), at=at, **source)
        )
        model.add(snapshot("map", [link("sink", passed)], budget=budget(working=1.0), received=passed, at=at))
        model.add(snapshot("sink", budget=budget(working=busy), received=passed, at=at))
    found = model.as_json(2.0)["bottleneck"]
    assert (found["stage"], found["instances_needed"]) == ("map", needed), found


def test_how_fast_a_source_is_shows_although_it_is_always_blocked() -> None:
    """It has its next message ready whenever there is room, so the time in which nothing blocks it says nothing."""
    model = PipelineModel(config(CHAIN))
    for at in range(100):
        passed = 10 * at
        read = 2048 + passed
        source = {"read_messages": read, "read_s": read / 300}
        rows = [link("map", read, unsent=2048)]
        model.add(snapshot("read", rows, received=read, budget=budget(blocked=0.999), at=float(at), **source))
        model.add(snapshot("map", [link("sink", passed)], budget=budget(working=1.0), received=passed, at=float(at)))
        model.add(snapshot("sink", received=passed, budget=budget(working=0.001), at=float(at)))
        if at > 2:
            assert model.as_json(float(at))["bottleneck"]["instances_needed"] == 30


def test_a_source_that_makes_up_for_lost_time_counts_by_what_it_gave_when_it_was_free() -> None:
    model = PipelineModel(config(CHAIN))
    for at in range(60):
        free = at < 20
        read = 40 * at if free else 800 + 10 * (at - 20)
        source = {"read_messages": read, "read_s": float(at) if free else 20.0 + (at - 20) / 1000}
        rows = [link("map", read, unsent=0 if free else UNSENT_BOUND)]
        shares = budget(blocked=0.0 if free else 0.99)
        model.add(snapshot("read", rows, received=read, budget=shares, at=float(at), **source))
        model.add(snapshot("map", [link("sink", 10 * at)], budget=budget(working=1.0), received=10 * at, at=float(at)))
        model.add(snapshot("sink", received=10 * at, budget=budget(working=0.001), at=float(at)))
    assert model.as_json(59.0)["bottleneck"]["instances_needed"] == 4


def test_a_paused_stage_is_named_and_what_to_do() -> None:
    watched = Watched([head(100), stage("map", "read", 0.001), stage("sink", "map", 0.001)])
    watched.run(10.0)
    watched.sim.pause(("map", 1), 1000.0)
    found = watched.run(5.0)["bottleneck"]
    assert (found["stage"], found["kind"], found["advice"]) == ("map", "paused", "resume map")


@pytest.mark.parametrize(
    ("state", "at", "why", "advice"),
    [
        ("RUNNING", 110.0, "map is silent and 40 messages wait for it", "see its log, or restart map"),
        ("FAILED", 101.0, "map has failed and 40 messages wait for it", "see its log, and start map"),
    ],
)
def test_a_stage_that_does_not_work_is_named_with_what_to_do(state: str, at: float, why: str, advice: str) -> None:
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("map", state=state, at=100.0))
    model.add(snapshot("read", [link("map", 100, unsent=40)], at=at))
    verdict = model.as_json(at)["bottleneck"]
    assert (verdict["kind"], verdict["why"]) == ("down", why)
    assert advice in verdict["advice"]


@pytest.mark.parametrize(("before_s", "workers", "seconds"), [(25.0, 1, 0.0105), (1 / 40, 4, 0.042)])
def test_a_stage_that_had_time_left_is_named_soon_after_it_falls_behind(
    before_s: float, workers: int, seconds: float
) -> None:
    """For 30 intervals there is time in the long window in which it was idle."""
    source = replace(head(150), policy=replace(POLICY, unacked=Bound(20_000, 128 * MIB)))
    watched = Watched([source, stage("work", "read", seconds, workers), stage("sink", "work", 0.001)])
    watched.run(1.0)
    watched.sim.specs["read"].record_s = before_s
    watched.run(25.0)
    watched.sim.specs["read"].record_s = 1 / 150
    said = []
    for _ in range(40):
        value = watched.run(1.0)
        row, found = link_of(value, "read", "work"), value["bottleneck"]
        said.append(found and (found["stage"], found["kind"]))
        if row["full_in_s"] is not None or row["slope"]:
            assert found is None or found["stage"] == "work", (row, found)
        if said[-1] == ("work", "working"):
            assert float(found["why"].split("% ")[0].split()[-1]) >= 85, found
    assert said[5:] == [("work", "working")] * 35
    assert watched.sim.problems == []


def slow_after_120_a_second(instances: int) -> Watched:
    """One instance does 81 a second."""
    source = replace(head(120), policy=replace(POLICY, unacked=Bound(20_000, 128 * MIB)))
    return Watched([source, stage("slow", "read", 1 / 81, instances=instances), stage("sink", "slow", 0.001)])


def verdicts(watched: Watched, intervals: int) -> list[dict[str, Any]]:
    return [watched.run(1.0)["bottleneck"] for _ in range(intervals)]


def test_a_stage_that_has_just_started_again_does_not_need_more_than_it_needs() -> None:
    watched = slow_after_120_a_second(1)
    watched.run(40.0)
    watched.sim.kill(("slow", 1))
    watched.run(3.0)
    watched.sim.boot("slow", 1)
    found = verdicts(watched, 15)
    assert [one["stage"] for one in found] == ["slow"] * 15
    assert [one["instances_needed"] for one in found[:4]] == [None] * 4
    assert all("has just started" in one["advice"] for one in found[:4]), found
    assert {one["instances_needed"] for one in found[4:]} <= {None, 2}
    assert found[-1]["instances_needed"] == 2
    assert watched.sim.problems == []


def test_as_many_as_keep_up_are_not_too_few_while_they_drain_a_backlog() -> None:
    watched = slow_after_120_a_second(2)
    watched.run(2.0)
    watched.sim.kill(("slow", 2))
    assert watched.run(25.0)["bottleneck"]["instances_needed"] == 2
    watched.sim.boot("slow", 2)
    found = verdicts(watched, 20)
    assert [one["stage"] for one in found] == ["slow"] * 20
    assert [one["instances_needed"] for one in found if one["instances_needed"] not in (None, 2)] == []
    last, waiting = found[-1], link_of(watched.value, "read", "slow")["depth"]
    assert (last["instances_needed"], last["advice"]) == (
        2,
        f"2 instances keep up; {waiting:,} messages are still waiting",
    )
    assert watched.sim.problems == []


def test_as_many_as_keep_up_are_not_too_few_while_they_drain_a_full_link() -> None:
    watched = slow_after_120_a_second(2)
    watched.run(2.0)
    watched.sim.kill(("slow", 2))
    watched.run(55.0)
    watched.sim.boot("slow", 2)
    found = [one for one in verdicts(watched, 45) if one is not None and one["stage"] == "slow"]
    assert [one["instances_needed"] for one in found if one["instances_needed"] not in (None, 2)] == []
    assert "2 instances keep up" in found[-1]["advice"]
    assert all("would keep up with" not in one["advice"] for one in found), found
