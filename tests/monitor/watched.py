"""A simulated pipeline and the monitor's model of it: real cores, real snapshots, a virtual clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from monitor_samples import config

from zpipe.config import Input, PipelineConfig
from zpipe.config.pipeline_config import Workers
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.testing import Faults, Simulation, Spec

ENDLESS = 10**9
CHECK_EVERY = 20
"""The rules of the core have tests of their own, and looking at them takes a third of a run."""


def config_of(specs: list[Spec]) -> PipelineConfig:
    """The config that would start such a pipeline."""
    made = config({spec.name: [] for spec in specs}, {spec.name: spec.instances for spec in specs})
    stages = {
        spec.name: replace(
            made.stages[spec.name],
            inputs=tuple(Input(stage, outlet) for stage, outlet in spec.inputs),
            queue=spec.policy.queue,
            unacked=spec.policy.unacked,
            batch=spec.policy.batch,
            limit=spec.policy.limit,
            workers=Workers(count=spec.policy.workers),
        )
        for spec in specs
    }
    return replace(made, name="sim", stages=stages, interval_s=specs[0].policy.interval_s)


class Watched:
    """`value` is what the monitor shows now. `sim.problems` must stay empty."""

    def __init__(self, specs: list[Spec], seed: int = 0, faults: Faults | None = None) -> None:
        self.sim = Simulation(specs, seed, faults, check_every=CHECK_EVERY)
        self.model = PipelineModel(config_of(specs))
        self.heard: list[tuple[dict[str, Any], float]] = []
        self.sim.watcher = self._hear

    def _hear(self, snapshot: dict[str, Any], now: float) -> None:
        self.heard.append((snapshot, now))
        self.model.add(snapshot, now)

    def run(self, seconds: float) -> dict[str, Any]:
        """Lets so many (virtual) seconds pass; the value then."""
        self.sim.run(lambda: False, seconds)
        return self.value

    @property
    def value(self) -> dict[str, Any]:
        return self.model.as_json(self.sim.now)

    def waiting(self, upstream: str, consumer: str) -> int:
        """What waits between two stages by the cores' own counts, where nobody dies: made, and not in work yet."""
        nodes = self.sim.nodes
        producers = [node.stage.downstream for key, node in nodes.items() if key[0] == upstream]
        made = sum(o.produced for d in producers for o in d.links if o.consumer == consumer)
        counts = [node.stage.counts for key, node in nodes.items() if key[0] == consumer]
        return made - sum(one.received - one.queued for one in counts)


def link(value: dict[str, Any], upstream: str, consumer: str) -> dict[str, Any]:
    (row,) = [row for row in value["links"] if (row["from"], row["to"]) == (upstream, consumer)]
    return row
