"""Hosts whose clocks are off: the monitor says so, and shows no age that is wrong by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from monitor_samples import CHAIN, config, link, snapshot

from zpipe.config import PipelineConfig
from zpipe.monitor.export.metrics import METRICS
from zpipe.monitor.model.history import totals
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.table.columns import plain
from zpipe.monitor.table.pipeline_status import status

NOW, HOUR_S = 1_000_000.0, 3660.0
LATENCY = {kind: {"p50_s": 0.1, "p90_s": 0.2, "p99_s": 0.3} for kind in ("in_stage", "since_origin")}
HISTOGRAM = {kind: {"messages": 1, "sum_s": 0.1, "buckets": [[0.131072, 1]]} for kind in ("in_stage", "since_origin")}
ON = {"read": "web1", "map": "web2", "sink": "web2"}


def spread() -> PipelineConfig:
    made = config(CHAIN)
    stages = {
        name: replace(stage, hosts=(ON[name],), listen=(f"tcp://{ON[name]}:{25000 + 100 * index}",))
        for index, (name, stage) in enumerate(made.stages.items())
    }
    return replace(made, stages=stages)


def shown(of: PipelineConfig, **ahead_s: float) -> dict[str, Any]:
    """The pipeline as a monitor has it whose clock is right; `ahead_s` by host."""
    model = PipelineModel(of)
    crash = {"how": "killed by SIGKILL", "at": NOW - 60.0, "messages_in_call": 0, "ids": []}
    for second in range(4):
        for name in CHAIN:
            off = ahead_s.get(ON[name], 0.0)
            links = (
                [link("map", 10 * second)] if name == "read" else [link("sink", 10 * second)] if name == "map" else []
            )
            model.add(
                snapshot(
                    name,
                    links,
                    received=10 * second,
                    at=NOW + second + off,
                    latency=LATENCY,
                    latency_histogram=HISTOGRAM,
                    last_crash=crash | {"at": crash["at"] + off},
                ),
                NOW + second + 0.01,
            )
    return model.as_json(NOW + 3.5)


@pytest.mark.parametrize(
    ("ahead_s", "said"),
    [(HOUR_S, "clock of web2 is 61 min ahead"), (-HOUR_S, "clock of web2 is 61 min behind")],
)
def test_a_clock_that_is_off_is_said_and_makes_no_age_wrong(ahead_s: float, said: str) -> None:
    value = shown(spread(), web2=ahead_s)
    assert value["clocks"] == {"web2": pytest.approx(ahead_s, abs=0.02)}
    text = " ".join(plain(line) for line in status(value, 120))
    assert said in " ".join(text.split())
    assert value["stages"]["sink"]["latency"] == {"in_stage": LATENCY["in_stage"]}, "since the origin nothing is known"
    assert value["stages"]["read"]["latency"] == LATENCY, "its origin is its own clock's"
    assert totals(value)["p99"] is None
    for stage in value["stages"].values():
        [one] = stage["instances"]
        assert NOW <= one["at"] <= NOW + 3.5
        assert stage["last_crash"]["at"] == pytest.approx(NOW - 60.0, abs=0.02)
    of_snapshots = [metric for metric in METRICS if metric.name == "zpipe_snapshot_age_seconds"]
    assert of_snapshots and all(age < 1.0 for metric in of_snapshots for _, age in metric.samples(value))
    assert [link["depth"] for link in value["links"]] == [0, 0]


def test_clocks_that_are_off_by_as_much_agree_with_each_other() -> None:
    """The monitor's own is off, from which they differ."""
    value = shown(spread(), web1=HOUR_S, web2=HOUR_S + 0.5)
    assert set(value["clocks"]) == {"web1", "web2"}
    assert value["stages"]["sink"]["latency"] == LATENCY


def test_nothing_is_said_of_clocks_that_agree_or_of_one_machine() -> None:
    assert shown(spread(), web2=0.9)["clocks"] == {}
    assert shown(config(CHAIN), web2=HOUR_S)["clocks"] == {}, "a monitor that was slow to read, or a clock that was set"
