"""The processes of a simulated pipeline: started, found by their neighbours, killed, frozen, asked to leave.

May live here: what supervisor, discovery and an operator do in `zpipe.daemon`. What comes of an instance's actions is the
simulation's.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import count

from zpipe.testing.clock import Clock
from zpipe.testing.network import Faults, Network
from zpipe.testing.node import Key, Node
from zpipe.testing.simulated_plugin import Disk, SimulatedTask, Spec

RESTART_S = 0.1
CONNECT_S = 0.001
"""Until a neighbour sees that a line is up or down."""


class Processes(ABC):
    """Those of `specs`, started; `disks` are those of an earlier run.

    nodes  live instances;  marks: (stage, instance) that stopped at the end of the stream
    """

    def __init__(
        self, specs: Sequence[Spec], seed: int = 0, faults: Faults | None = None, disks: dict[Key, Disk] | None = None
    ) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.network = Network(self.clock, self.random, faults or Faults())
        self.specs = {spec.name: spec for spec in specs}
        self.nodes: dict[Key, Node] = {}
        self.disks = {} if disks is None else disks
        self.marks: set[Key] = set()
        self.draining = False
        self._booting: set[Key] = set()
        self._returning: dict[Key, float] = {}
        self._incarnations = count(1)
        for spec in specs:
            for instance in range(1, spec.instances + 1):
                self.boot(spec.name, instance)

    @abstractmethod
    def _turned(self, node: Node) -> None:
        """A turn of the node's loop has come to its core."""

    @abstractmethod
    def _store(self, node: Node, run: SimulatedTask) -> None:
        """A sink has stored what `run` says."""

    @property
    def now(self) -> float:
        return self.clock.now

    @property
    def over(self) -> bool:
        """Every instance has exited, and none is to be started again."""
        return not self.nodes and not self._booting

    def links(self, stage: str) -> list[tuple[str, str]]:
        return [(outlet, s.name) for s in self.specs.values() for up, outlet in s.inputs if up == stage]

    # ---- started, found, killed

    def boot(self, stage: str, instance: int) -> Node:
        key = (stage, instance)
        assert key not in self.nodes, f"{key} runs already"
        self._booting.discard(key)
        incarnation = f"{stage}.{instance}-{next(self._incarnations)}"
        disk = self.disks.setdefault(key, Disk())
        node = Node(
            self.specs[stage],
            instance,
            incarnation,
            self.links(stage),
            disk,
            self.clock,
            self.random,
            self._turned,
            self._store,
            self._died,
        )
        self.nodes[key] = node
        for upstream in sorted(node.upstreams):
            for number in range(1, self.specs[upstream].instances + 1):
                node.stage.upstream_expected((upstream, number))
        self._look(node)
        for other in list(self.nodes.values()):
            self._find(node, other)
            if other is not node:
                self._find(other, node)
        if self.draining and not node.spec.inputs:
            node.stage.drain()
        node.later(0.0, lambda: None)
        return node

    def boot_later(self, key: Key, delay_s: float) -> None:
        """As a supervisor does; one that has stopped at the end of the stream is not started again."""

        def due() -> None:
            if key in self._booting:
                self._booting.discard(key)
                if key not in self.marks and key not in self.nodes:
                    self.boot(*key)

        if key not in self.marks:
            self._booting.add(key)
            self.clock.later(delay_s, due)

    def is_booting(self, key: Key) -> bool:
        return key in self._booting

    def back_later(self, key: Key, delay_s: float) -> None:
        """Starts an instance that is leaving again, `delay_s` after it is gone."""
        self._returning[key] = delay_s

    def _find(self, node: Node, upstream: Node) -> None:
        if upstream.key[0] in node.upstreams:
            delay_s = CONNECT_S + self.random.random() * self.network.faults.connect_s
            self.clock.later(delay_s, lambda: self._connected(node, upstream))

    def _connected(self, node: Node, upstream: Node) -> None:
        def event() -> None:  # a process that stands still makes no connection
            if upstream.alive:
                self.network.make_line(node.incarnation, upstream.incarnation)
            node.stage.upstream_connected(upstream.key, self.now)

        if upstream.alive:
            node.event(event)

    def _look(self, node: Node) -> None:
        """The node sees marks of its neighbours."""
        for key in sorted(self.marks):
            if key[0] in node.upstreams and key not in node.gone:
                node.gone.add(key)
                node.stage.upstream_gone(key, self.now)
            if key[0] in node.consumers:
                node.stage.downstream_gone(key[0])

    def kill(self, key: Key) -> None:
        """kill -9: its neighbours see the lines go down; what it knew is lost."""
        node = self.nodes.pop(key)
        node.alive = False
        self.disks[key].suspects = node.workers.suspects()
        for session in self.network.sessions(node.incarnation):
            self.network.cut(session)
        for other in list(self.nodes.values()):
            self._lose_line(other, node)
            self.network.break_line(node.incarnation, other.incarnation)
            for session in self._sessions(other, node):
                self.network.cut(session)
                self._lose(other, session)

    def _died(self, node: Node) -> None:
        """A call of its plugin was the end of it."""
        self.kill(node.key)
        self.boot_later(node.key, RESTART_S)

    def _lose_line(self, other: Node, dead: Node) -> None:
        if dead.key[0] in other.upstreams:
            self.network.break_line(other.incarnation, dead.incarnation)
            self.clock.later(
                CONNECT_S, lambda: other.event(lambda: other.stage.upstream_disconnected(dead.key, self.now))
            )

    def _lose(self, node: Node, session: bytes) -> None:
        self.clock.later(CONNECT_S, lambda: node.event(lambda: node.stage.session_lost(session)))

    def _sessions(self, node: Node, consumer: Node) -> list[bytes]:
        mine = self.network.sessions(node.incarnation)
        return [session for session in mine if self.network.connections[session].address == consumer.inbox]

    def _exited(self, key: Key) -> None:
        """It is gone by its own will; it may be one that comes back."""
        self.kill(key)
        if key in self._returning:
            self.boot_later(key, self._returning.pop(key))

    # ---- what an operator or the world does

    def freeze(self, key: Key, seconds: float) -> None:
        """SIGSTOP for a while: nothing is handled, everything waits."""
        node = self.nodes[key]
        node.frozen_until = max(node.frozen_until, self.now + seconds)

    def leave(self, key: Key) -> None:
        """SIGTERM to one instance. (A second one would kill it.)"""
        node = self.nodes[key]
        node.event(lambda: node.stage.leave(self.now))

    def pause(self, key: Key, seconds: float) -> None:
        """An operator has it start nothing for a while."""
        node = self.nodes[key]
        node.event(lambda: node.stage.pause(True))
        node.later(seconds, lambda: node.stage.pause(False))

    def drain(self) -> None:
        """Every head is asked to end, also one that is started later in this run."""
        self.draining = True
        for node in list(self.nodes.values()):
            if not node.spec.inputs:
                node.event(node.stage.drain)

    def lose_session(self, session: bytes) -> None:
        """A connection breaks, seen by its producer only."""
        producer = self.network.connections[session].producer
        self.network.cut(session)
        for node in list(self.nodes.values()):
            if node.incarnation == producer:
                self._lose(node, session)

    def lose_line(self, key: Key, upstream: Key, seconds: float) -> None:
        """The consumer's line to the feedback and control of an upstream instance breaks, and is made again."""
        node, other = self.nodes[key], self.nodes[upstream]
        self._lose_line(node, other)
        self.clock.later(CONNECT_S + seconds, lambda: self._connected(node, other))
