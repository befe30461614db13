"""A pipeline from a config, with its real plugins, as a simulation. Must not live here: what a test asks of it."""

from __future__ import annotations

import gc
import logging
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from zpipe import plugin_loading
from zpipe.config import PipelineConfig, StageConfig
from zpipe.core.policy import StagePolicy
from zpipe.core.work.task import DeadLetter
from zpipe.daemon.plugin.task_run import StageLinks
from zpipe.daemon.plugin.wrapping import wrapped
from zpipe.daemon.stage_policy import hold_refusal, stage_policy
from zpipe.hookspecs import Context, Holds
from zpipe.messages import Message
from zpipe.plugin_loading import Plugin
from zpipe.testing.network import Faults
from zpipe.testing.node import Key
from zpipe.testing.plugin_runs.plugin_sources import Head, ReadFromPlugin
from zpipe.testing.plugin_runs.plugin_workers import Collector, Life, PluginWorkers
from zpipe.testing.plugin_runs.virtual_time import VirtualTimeLoop
from zpipe.testing.simulated_plugin import Disk, Spec
from zpipe.testing.simulation import RESTART_S, Simulation

RUNTIME = Path("/run/zpipe")
"""Where simulated instances say that their sockets are."""
QUIET_S = 0.05
"""If nothing happens for so long by the virtual clock, nothing will before a delay or a timeout is over."""
LONGEST = 0.999999
"""Delays are as long as they can be, so that a test knows by when they are over."""
CONNECT_S = 30.0
DRAIN_S = 86_400.0
LARGEST_BYTES = 64 << 20
MOST_EXPANSION = 10_000_000


class Dead(NamedTuple):
    """A dead letter."""

    stage: str
    id: str
    payload: Any
    reason: str
    attempts: int
    traceback: str


class SimulatedPipeline:
    """Those of the config's `stages` that take part. `received` and `calls` tell what their plugins were called for.

    heartbeat_s  of all links, where it is not that of the config: hours pass sooner with fewer of them
    """

    def __init__(
        self, config: PipelineConfig, stages: Iterable[str], seed: int = 0, heartbeat_s: float | None = None
    ) -> None:
        self.config = config
        self.calls: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.received: defaultdict[str, list[Message]] = defaultdict(list)
        self._stages = list(stages)
        self._states = TemporaryDirectory(prefix="zpipe-test-")
        self._loop = VirtualTimeLoop()
        self._lives: dict[Key, Life] = {}
        self._heads: list[ReadFromPlugin] = []
        self._killed = False
        self._silence = ExitStack()
        self._seed = seed
        self._heartbeat_s = heartbeat_s
        self.simulation: Simulation

    def start(self, more: Iterable[Spec] = ()) -> None:
        """`more`: stages that call no plugin of the config."""
        specs = [self._spec(self.config.stages[name]) for name in self._stages]
        heads = {(s.name, n): Disk(position=None) for s in specs if not s.inputs for n in range(1, s.instances + 1)}
        self.simulation = Simulation(
            [*specs, *more],
            seed=self._seed,
            faults=Faults(),
            disks=heads,
            largest=LARGEST_BYTES,
            expansion=MOST_EXPANSION,
            jitter=lambda: LONGEST,
        )

    # ---- stages

    def _plugin(self, stage: StageConfig) -> Plugin:
        return plugin_loading.load(stage.plugin, self.config.folder).in_stage(has_input=bool(stage.inputs))

    def _policy(self, stage: StageConfig) -> StagePolicy:
        policy = stage_policy(self.config, stage, RUNTIME, self._plugin(stage).hooks)
        return policy if self._heartbeat_s is None else slow(policy, self._heartbeat_s)

    def _spec(self, stage: StageConfig) -> Spec:
        return Spec(
            stage.name,
            inputs=tuple((entry.stage, entry.outlet) for entry in stage.inputs),
            instances=stage.instances,
            policy=self._policy(stage),
            make_source=lambda spec, instance, position, completed: self._source(stage, instance, position, completed),
            make_workers=lambda spec, instance, sink, later, emitted, done, died: self._workers(
                stage, instance, sink, later, emitted, done
            ),
        )

    def _open(self, stage: StageConfig, instance: int, last: bool, position: Any = None) -> Life:
        """A new life of an instance: its plugin is loaded anew, as it is in a new process."""
        state = Path(self._states.name) / f"{stage.name}.{instance}"
        state.mkdir(exist_ok=True)
        context: Context = Context(
            pipeline=self.config.name,
            stage=stage.name,
            instance=instance,
            instances=stage.instances,
            incarnation=f"{stage.name}.{instance}",
            options=stage.options,
            config_dir=self.config.folder,
            state_dir=state,
            log=logging.getLogger(f"zpipe.test.{stage.name}"),
            position=position,
            last=last,
            batching=stage.batch is not None,
            holds=Holds(refusal=hold_refusal(stage)),
        )
        plugin = wrapped(self._plugin(stage), stage.use, context)
        life = Life(plugin, context, self.calls[stage.name], self.received[stage.name], self._loop)
        self._lives[stage.name, instance] = life
        return life

    def _workers(
        self, stage: StageConfig, instance: int, sink: bool, later: Any, emitted: Any, done: Any
    ) -> PluginWorkers | Collector:
        if not stage.inputs:
            return Collector([], later, done)
        policy = self._policy(stage)
        links = StageLinks(self.outlets(stage), str(stage.inputs[0]) if len(stage.inputs) == 1 else "")
        return PluginWorkers(self._open(stage, instance, sink), policy, links, later, emitted, done)

    def outlets(self, stage: StageConfig) -> tuple[str, ...]:
        return tuple(self.config.outlets(stage.name))

    def _source(self, stage: StageConfig, instance: int, position: Any, completed: bool) -> Head:
        policy = self._policy(stage)
        if completed:
            over = Head(stage.name, policy.link)
            over.close()
            return over
        life = self._open(stage, instance, False, position)
        head = ReadFromPlugin(life, stage.name, policy.link, self.outlets(stage), lambda: self.simulation.now)
        self._heads.append(head)
        return head

    # ---- time

    def settle(self) -> None:
        """Until nothing happens any more but by the passing of time. Raises AssertionError for a broken rule."""
        before: Any = None
        while before != (before := self._progress()):
            self.simulation.clock.advance(QUIET_S)
        self.check()

    def _progress(self) -> Any:
        nodes = sorted(self.simulation.nodes.items())
        counts = [(key, repr(node.stage.counts)) for key, node in nodes]
        unacked = [outlet.held_messages for _, node in nodes for outlet in node.stage.sessions.outlets]
        return (
            counts,
            unacked,
            len(self.simulation.dead_letters),
            sum(sum(calls.values()) for calls in self.calls.values()),
        )

    def advance(self, seconds: float) -> None:
        self.simulation.clock.advance(seconds)
        self.settle()

    def connect(self) -> None:
        """Until every stage knows its neighbours."""
        nodes = self.simulation.nodes

        def connected() -> bool:
            return all(outlet.sessions for node in nodes.values() for outlet in node.stage.sessions.outlets)

        assert self.simulation.run(connected, CONNECT_S), "the stages do not find each other"

    def end_life(self, key: Key) -> None:
        """`kill -9`; it is started again after RESTART_S."""
        if not self._killed:
            self._killed = True
            self._silence.enter_context(_no_resource_warnings())
        self._lives.pop(key, None)
        self.simulation.kill(key)
        self.simulation.boot_later(key, RESTART_S)

    def kill(self, key: Key) -> None:
        """The same, and waits until it works again."""
        self.end_life(key)
        self.simulation.run(lambda: key in self.simulation.nodes, 1.0)
        self.settle()

    def drain(self) -> None:
        self.simulation.drain()
        self.finish()

    def finish(self) -> None:
        """Until all stages have ended."""
        over = self.simulation.run(seconds=DRAIN_S)
        held = {f"{stage}.{n}": node.stage.held_messages for (stage, n), node in self.simulation.nodes.items()}
        assert over, f"the pipeline does not end; messages held: {held}"
        self.check()
        for stage in self.simulation.stopped:
            assert not stage.counts.off(), f"{stage.me}: {stage.counts}"
            assert stage.source is None or stage.source.finished == stage.source.emitted, f"{stage.me} is not acked"
        self._close_plugins()

    def check(self) -> None:
        problems = self.simulation.problems
        assert not problems, "\n".join(problems)

    # ---- what came of it

    def dead(self) -> list[Dead]:
        return [_dead(*found) for found in self.simulation.dead_letters]

    # ---- the end

    def _close_plugins(self) -> None:
        lives = list(self._lives.values())
        self._lives.clear()
        for life in lives:
            life.close()

    def leave(self, failed: bool) -> None:
        """The end of a test, which may have `failed` already."""
        try:
            if not failed:
                self.check()
        finally:
            self.close()

    def close(self) -> None:
        for head in self._heads:
            head.close()
        try:
            self._close_plugins()
        finally:
            self._loop.close()
            self._states.cleanup()
            self._silence.close()
            if self._killed:
                with _no_resource_warnings():
                    gc.collect()


@contextmanager
def _no_resource_warnings() -> Iterator[None]:
    """The kernel closes what a killed process had open. Here that becomes garbage, of which Python would warn when it is
    collected, in a later test as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


def slow(policy: StagePolicy, heartbeat_s: float) -> StagePolicy:
    """The same with another heartbeat, and what follows from it."""
    link = replace(policy.link, heartbeat_s=heartbeat_s, peer_timeout_s=4 * heartbeat_s)
    return replace(policy, link=link, interval_s=heartbeat_s)


def _dead(stage: str, id: str, letter: DeadLetter) -> Dead:
    payload = letter.raw if letter.piece is None else letter.piece.columns().payloads[0]
    return Dead(stage, id, payload, letter.reason, letter.history.calls, letter.traceback)
