"""A whole pipeline of cores on a virtual clock, over a network that drops, delays, duplicates, reorders and cuts.

May live here: the simulated network, workers and processes of tests. Nothing sleeps and nothing is random but by the
seed, so every failure is a list of events that can be played again.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from zpipe.core import actions as act
from zpipe.core import section, snapshot, wire
from zpipe.core.intake import Self
from zpipe.core.lifecycle import State
from zpipe.core.policy import StagePolicy
from zpipe.core.stage import Stage
from zpipe.core.work import DeadLetter, Failure, Result, Task
from zpipe.errors import PeerError

Plan = Callable[[str, int], list[str]]
"""What a stage makes of a message: (its id, attempt) to the ids of its outputs. Raises ValueError to fail."""


@dataclass
class Spec:
    """One stage of a simulated pipeline."""

    name: str
    inputs: tuple[tuple[str, str], ...] = ()
    instances: int = 1
    policy: StagePolicy = field(default_factory=StagePolicy)
    seconds: Callable[[int], float] = lambda instance: 0.001
    plan: Plan = lambda id, attempt: [id]
    messages: int = 0
    """(heads) how many messages the source has."""


@dataclass
class Faults:
    """Chances for each frame on the way. Data frames are never dropped alone: ZeroMQ loses them only with the connection."""

    drop: float = 0.0
    duplicate: float = 0.0
    delay_s: float = 0.0
    reorder: bool = False


class Node:
    """One instance: a core, its simulated plugin, and what survives its death (`Simulation.disks`)."""

    def __init__(self, sim: Simulation, spec: Spec, instance: int, incarnation: str) -> None:
        self.sim = sim
        self.spec = spec
        self.key = (spec.name, instance)
        me = Self("sim", spec.name, instance, incarnation, f"inbox:{incarnation}")
        self.stage = Stage(me, spec.inputs, sim.links(spec.name), spec.policy, sim.now, sim.random.random)
        self.sessions: dict[str, str] = {}
        self.alive = True
        self.frozen_until = 0.0
        self.limit = 0
        self.emitted = 0
        self.start_at = sim.disks.get(self.key, 0)
        self.source_over = spec.inputs != ()
        self.closing = False
        self.exit_failed: bool | None = None
        self.held_most = 0
        self.stage.opened()

    # ---- the plugin

    def run_source(self) -> None:
        """Emits up to the limit, a few messages a call."""
        if self.source_over:
            return
        left = self.spec.messages - self.start_at - self.emitted
        size = min(left, self.limit - self.emitted, 1 + self.sim.random.randrange(8))
        if left == 0 or self.closing:
            self.source_over = True
            self.stage.source_ended()
            return
        if size <= 0:
            return
        first = self.start_at + self.emitted
        ids = [f"{self.spec.name}:{n}" for n in range(first, first + size)]
        self.emitted += size
        body = section.encode(ids, [self.sim.now] * size, ids, None)
        self.stage.source_emitted([("", size, body)], first + size, size, [])

    def run_task(self, task: Task) -> Result:
        outputs: dict[str, list[str]] = {}
        result = Result([], seconds=self.spec.seconds(self.key[1]) * task.count)
        index = 0
        sink = not self.sim.links(self.spec.name)
        for piece in task.slices:
            ids = piece.section.columns()[0][piece.start : piece.stop]
            for id in ids:
                try:
                    made = self.spec.plan(id, task.attempt)
                except ValueError as error:
                    result.failures.append(Failure(index, str(error)))
                else:
                    if sink:
                        self.sim.stored.append((self.spec.name, id))
                    elif not made:
                        result.filtered += 1
                    outputs.setdefault("", []).extend(made)
                index += 1
        for outlet, ids in outputs.items():
            for start in range(0, len(ids), 16):
                part = ids[start : start + 16]
                result.chunks.append((outlet, len(part), section.encode(part, [0.0] * len(part), part, None)))
        return result


class Simulation:
    """Runs the pipeline described by `specs` until it is over or `until` says so."""

    def __init__(self, specs: list[Spec], seed: int = 0, faults: Faults | None = None) -> None:
        self.random = random.Random(seed)
        self.faults = faults or Faults()
        self.specs = {spec.name: spec for spec in specs}
        self.now = 1000.0
        self.nodes: dict[tuple[str, int], Node] = {}
        self.dead: list[Node] = []
        self.disks: dict[tuple[str, int], int] = {}
        self.stored: list[tuple[str, str]] = []
        self.buried: list[tuple[str, DeadLetter]] = []
        self.marks: set[tuple[str, int]] = set()
        self.problems: list[str] = []
        self.check: Callable[[Node], None] | None = None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._incarnations = count(1)
        self._lines: dict[tuple[str, ...], float] = {}
        for spec in specs:
            for instance in range(1, spec.instances + 1):
                self.boot(spec.name, instance)

    def links(self, stage: str) -> list[tuple[str, str]]:
        return [(outlet, s.name) for s in self.specs.values() for up, outlet in s.inputs if up == stage]

    # ---- processes

    def boot(self, stage: str, instance: int) -> Node:
        spec = self.specs[stage]
        node = Node(self, spec, instance, f"{stage}.{instance}-{next(self._incarnations)}")
        self.nodes[node.key] = node
        for other in list(self.nodes.values()):
            self._connect(node, other)
            if other is not node:
                self._connect(other, node)
        for key in self.marks:
            node.stage.downstream_gone(key[0])
            if key[0] in {up for up, _ in spec.inputs} and key not in self.nodes:
                node.stage.upstream_gone(key, self.now)
        self.later(0.0, lambda: self.turn(node))
        return node

    def _connect(self, node: Node, upstream: Node) -> None:
        if upstream.key[0] in {up for up, _ in node.spec.inputs}:
            self.later(0.001, lambda: self._connected(node, upstream))

    def _connected(self, node: Node, upstream: Node) -> None:
        if node.alive and upstream.alive:
            node.stage.upstream_connected(upstream.key, self.now)
            self.turn(node)

    def kill(self, key: tuple[str, int]) -> None:
        """kill -9: its neighbours see the line go down; what it knew is lost."""
        node = self.nodes.pop(key)
        node.alive = False
        self.dead.append(node)
        for other in list(self.nodes.values()):
            self.later(0.001, lambda other=other: self._disconnected(other, node))  # type: ignore[misc]

    def _disconnected(self, other: Node, dead: Node) -> None:
        if not other.alive:
            return
        if dead.key[0] in {up for up, _ in other.spec.inputs} and dead.key not in self.nodes:
            other.stage.upstream_disconnected(dead.key, self.now)
            if dead.key in self.marks:
                other.stage.upstream_gone(dead.key, self.now)
        if dead.key in self.marks:
            other.stage.downstream_gone(dead.key[0])
        inbox = dead.stage.me.inbox
        for session in [s for s, address in other.sessions.items() if address == inbox]:
            other.stage.session_lost(session)
        self.turn(other)

    def freeze(self, key: tuple[str, int], seconds: float) -> None:
        """SIGSTOP for a while: nothing is handled, everything waits."""
        self.nodes[key].frozen_until = self.now + seconds

    # ---- time

    def later(self, delay_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay_s, next(self._order), event))

    def turn(self, node: Node) -> None:
        """One turn of the instance's loop."""
        if not node.alive:
            return
        if node.frozen_until > self.now:
            self.later(node.frozen_until - self.now, lambda: self.turn(node))
            return
        node.run_source()
        for action in node.stage.settle(self.now):
            self._perform(node, action)
        self._check(node)
        if not node.alive:
            return
        if not node.source_over and node.limit > node.emitted:
            self.later(0.001, lambda: self.turn(node))
        at = node.stage.next_timeout()
        if at < float("inf"):
            self._wake_at(node, at)

    def _wake_at(self, node: Node, at: float) -> None:
        due = getattr(node, "wake_at", float("inf"))
        if at < due or due <= self.now:
            node.wake_at = at  # type: ignore[attr-defined]
            self.later(max(at - self.now, 1e-6), lambda: self._woken(node, at))

    def _woken(self, node: Node, at: float) -> None:
        if getattr(node, "wake_at", None) == at:
            node.wake_at = float("inf")  # type: ignore[attr-defined]
            self.turn(node)

    def _check(self, node: Node) -> None:
        taken = node.stage.snapshot(self.now) if self.check is None else None
        if taken is not None:
            self.problems += [f"{node.key}: {problem}" for problem in snapshot.broken(taken)]
            if taken["held"] > node.spec.policy.queue.messages:
                self.problems.append(f"{node.key} holds {taken['held']} of {node.spec.policy.queue.messages}")
            node.held_most = max(node.held_most, taken["held"])
        else:
            assert self.check is not None
            self.check(node)

    def run(self, until: Callable[[], bool] | None = None, seconds: float = 600.0) -> bool:
        """Plays events until `until` holds (default: every instance has exited). False if time or events run out."""
        over = until or (lambda: not self.nodes and all((s.name, 1) in self.marks for s in self.specs.values()))
        end = self.now + seconds
        while self._events:
            if over():
                return True
            at, _, event = heapq.heappop(self._events)
            if at > end:
                return False
            self.now = max(self.now, at)
            event()
        return over()

    # ---- the network

    def _send(self, node: Node, line: tuple[str, ...], lossy: bool, arrive: Callable[[], None]) -> None:
        faults = self.faults
        if lossy and self.random.random() < faults.drop:
            return
        for _ in range(1 + (lossy and self.random.random() < faults.duplicate)):
            at = self.now + 0.0001 + self.random.random() * faults.delay_s
            if not (lossy and faults.reorder):  # a connection keeps the order
                at = max(at, self._lines.get(line, 0.0) + 1e-9)
                self._lines[line] = at
            self.later(at - self.now, arrive)

    def _deliver(self, key: tuple[str, int], incarnation: str | None, event: Callable[[Node], None]) -> None:
        node = self.nodes.get(key)
        if node is None or (incarnation is not None and node.stage.me.incarnation != incarnation):
            return
        if node.frozen_until > self.now:
            self.later(node.frozen_until - self.now, lambda: self._deliver(key, incarnation, event))
            return
        try:
            event(node)
        except PeerError as error:
            self.problems.append(f"{key}: {error}")
        self.turn(node)

    def _perform(self, node: Node, action: act.Action) -> None:
        me = node.stage.me
        match action:
            case act.StartTask(task):
                seconds = node.spec.seconds(me.instance) * task.count
                self.later(seconds, lambda: self._task_done(node, task))
            case act.Tell(peer, frame):
                route = repr((me.stage, me.instance, me.incarnation)).encode()
                self._send(
                    node,
                    ("tell", me.incarnation, *map(str, peer)),
                    True,
                    lambda: self._deliver(peer, None, lambda n: n.stage.feedback_received(route, frame, self.now)),
                )
            case act.Reply(route, frame):
                stage, instance, incarnation = eval(route)
                self._send(
                    node,
                    ("reply", me.incarnation, incarnation),
                    True,
                    lambda: self._deliver(
                        (stage, instance), incarnation, lambda n: n.stage.upstream_received(node.key, frame, self.now)
                    ),
                )
            case act.Publish(b"announcement", frame):
                for other in list(self.nodes.values()):
                    if me.stage in {up for up, _ in other.spec.inputs}:
                        line = ("publish", me.incarnation, other.stage.me.incarnation)
                        self._send(
                            node,
                            line,
                            True,
                            lambda key=other.key: self._deliver(  # type: ignore[misc]
                                key, None, lambda n: n.stage.upstream_received(node.key, frame, self.now)
                            ),
                        )
            case act.OpenSession(session, address):
                node.sessions[session] = address
                self.later(0.001, lambda: self._opened(node, session))
            case act.CloseSession(session):
                node.sessions.pop(session, None)
            case act.SendParcel(session, header, body):
                address = node.sessions.get(session)
                if address is not None:
                    self._send(node, ("data", session), False, lambda: self._arrive(address, header, body))
            case act.Bury(letter):
                self.later(0.001, lambda: self._bury(node, letter))
            case act.Commit(position, total, ended):
                self.later(0.002, lambda: self._commit(node, position, total, ended))
            case act.Gate(limit):
                node.limit = limit
            case act.CloseSource():
                node.closing = True
            case act.Stop(ended):
                if ended:
                    self.marks.add(node.key)
            case act.Exit(failed):
                node.exit_failed = failed
                self.kill(node.key)

    def _opened(self, node: Node, session: str) -> None:
        address = node.sessions.get(session)
        if not node.alive or address is None:
            return
        if any(n.stage.me.inbox == address for n in self.nodes.values()):
            node.stage.session_ready(session)
        else:
            node.stage.session_lost(session)
        self.turn(node)

    def _arrive(self, address: str, header: bytes, body: bytes) -> None:
        for node in list(self.nodes.values()):
            if node.stage.me.inbox == address:
                self._deliver(
                    node.key, node.stage.me.incarnation, lambda n: n.stage.parcel_received(header, body, self.now)
                )

    def _task_done(self, node: Node, task: Task) -> None:
        if node.frozen_until > self.now:
            self.later(node.frozen_until - self.now, lambda: self._task_done(node, task))
        elif node.alive:
            node.stage.task_done(task, node.run_task(task), self.now)
            self.turn(node)

    def _bury(self, node: Node, letter: DeadLetter) -> None:
        if node.alive:
            self.buried.append((node.spec.name, letter))
            node.stage.buried(letter, True, self.now)
            self.turn(node)

    def _commit(self, node: Node, position: Any, total: int, ended: bool) -> None:
        if node.alive:
            if position is not None:
                self.disks[node.key] = position
            node.stage.committed(total, ended)
            self.turn(node)

    # ---- what tests ask

    def ids(self, stage: str) -> Iterator[str]:
        return (id for name, id in self.stored if name == stage)

    def state(self, key: tuple[str, int]) -> State:
        return self.nodes[key].stage.state
