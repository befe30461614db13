"""A pipeline that runs: its processes, each turn of an instance, what comes of its actions, and what tests ask. May live here:
what supervisor, discovery, loop and operator do in `zpipe.daemon`, without side effects, and looking for broken rules after
every turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from zpipe.core import actions as act
from zpipe.core import events
from zpipe.core.lifecycle import State
from zpipe.core.stage import Stage
from zpipe.core.wire import frames
from zpipe.core.work.task import DeadLetter
from zpipe.errors import PeerError
from zpipe.testing.clock import Clock, MachineClock
from zpipe.testing.invariants import breaches
from zpipe.testing.network import Faults, Network
from zpipe.testing.node import Key, Node
from zpipe.testing.simulated_plugin import Disk, SimulatedTask, Spec, Stored

RESTART_S = 0.1
CONNECT_S = 0.001
"""Until a neighbour sees that a line is up or down."""
LOOK_S = 1.0
"""Marks of stopped neighbours are looked for this often."""
MOST_PROBLEMS = 20
ANEW = 3
"""After every so many turns that do not look at everything comes one that does, which must find nothing to do. Not after each, or
nobody would notice what is missed for long."""
MAY_WAIT = (act.Tell, act.LimitOutputs)
"""Credit, of which there is enough until the next turn that looks at everything."""
STRANGER = "stranger"
"""Who sends what a test has forged."""
FAULTS = ("session.broken", "session.given_up", "session.refused", "statement.refused")
"""Notes of what never happens between two of this pipeline, whatever the network does."""


class Simulation:
    """The pipeline of `specs`, started; `disks` are those of an earlier run.

    nodes     live instances;  marks: (stage, instance) that stopped at the end of the stream;  left: before it
    stored    what sinks kept;  dead_letters: (stage, id, dead letter)
    stopped   the cores of instances that stopped, left or not
    to_strangers  frames that answer what was forged, or came too late for the line they were to go by
    watcher   hears every snapshot that is published, at once, with the time
    problems  rules that were broken, in words;  largest, expansion: see `invariants`
    check_every  rules are looked at after every so many turns of instances: each, or fewer where a run has other ends
    """

    def __init__(
        self,
        specs: Sequence[Spec],
        seed: int = 0,
        faults: Faults | None = None,
        disks: dict[Key, Disk] | None = None,
        largest: int = 1000,
        expansion: int = 10_000,
        jitter: Callable[[], float] | None = None,
        check_every: int = 1,
    ) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.network = Network(self.clock, self.random, faults or Faults())
        self.specs = {spec.name: spec for spec in specs}
        self.nodes: dict[Key, Node] = {}
        self.disks = {} if disks is None else disks
        self.marks: set[Key] = set()
        self.left: set[Key] = set()
        self.draining = False
        self.stored: list[Stored] = []
        self.dead_letters: list[tuple[str, str, DeadLetter]] = []
        self.stopped: list[Stage] = []
        self.problems: list[str] = []
        self.to_strangers: list[bytes] = []
        self.watcher: Callable[[dict[str, Any], float], None] | None = None
        self._largest = largest
        self._expansion = expansion
        self._jitter = jitter or self.random.random
        self._booting: set[Key] = set()
        self._returning: dict[Key, float] = {}
        self._incarnations = count(1)
        self._turns = count(1)
        self._partial_turns = count(1)
        self._check_every = check_every
        for spec in specs:
            for instance in range(1, spec.instances + 1):
                self.boot(spec.name, instance)

    @property
    def now(self) -> float:
        return self.clock.now

    @property
    def over(self) -> bool:
        """Every instance has exited, and none is to be started again."""
        return not self.nodes and not self._booting

    def run(self, until: Callable[[], bool] | None = None, seconds: float = 600.0) -> bool:
        """Plays events until `until` holds (default: all is over). False if that takes more than `seconds`."""
        return self.clock.run(until or (lambda: self.over), seconds)

    def links(self, stage: str) -> list[tuple[str, str]]:
        return [(outlet, s.name) for s in self.specs.values() for up, outlet in s.inputs if up == stage]

    # ---- started, found, killed

    def boot(self, stage: str, instance: int) -> Node:
        key = (stage, instance)
        assert key not in self.nodes, f"{key} runs already"
        self._booting.discard(key)
        self.left.discard(key)
        incarnation = f"{stage}.{instance}-{next(self._incarnations)}"
        disk = self.disks.setdefault(key, Disk())
        node = Node(
            self.specs[stage],
            instance,
            incarnation,
            self.links(stage),
            disk,
            MachineClock(self.clock, self.specs[stage].ahead_s),
            self.random,
            self._jitter,
            self._turned,
            self._store,
            self._died,
        )
        self.nodes[key] = node
        for upstream in sorted(node.upstreams):
            for number in range(1, self.specs[upstream].instances + 1):
                node.tell(events.UpstreamExpected((upstream, number)))
        self._look(node)
        for other in list(self.nodes.values()):
            self._find(node, other)
            if other is not node:
                self._find(other, node)
        if self.draining and not node.spec.inputs:
            node.tell(events.OrderGiven("drain"))
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
            node.tell(events.UpstreamConnected(upstream.key))

        if upstream.alive:
            node.event(event)

    def _look(self, node: Node) -> None:
        """The node sees marks of its neighbours."""
        for key in sorted(self.marks):
            if key[0] in node.upstreams and key not in node.gone:
                node.gone.add(key)
                node.tell(events.UpstreamGone(key))
            if key[0] in node.consumers:
                node.tell(events.DownstreamGone(key[0]))
        for key in sorted(self.left):
            if key[0] in node.upstreams:
                node.tell(events.UpstreamLeft(key))

    def kill(self, key: Key) -> None:
        """kill -9: its neighbours see the lines go down; what it knew is lost."""
        node = self.nodes.pop(key)
        self.disks[key] = replace(self.disks[key], suspects=node.kill())
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
            self.clock.later(CONNECT_S, lambda: self._to(other, events.UpstreamDisconnected(dead.key)))

    def _lose(self, node: Node, session: bytes) -> None:
        self.clock.later(CONNECT_S, lambda: self._to(node, events.SessionLost(session)))

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
        self.nodes[key].freeze(seconds)

    def leave(self, key: Key) -> None:
        """SIGTERM to one instance. (A second one would kill it.)"""
        node = self.nodes[key]
        self._to(node, events.OrderGiven("leave"))

    def pause(self, key: Key, seconds: float) -> None:
        """An operator has it start nothing for a while."""
        node = self.nodes[key]
        self._to(node, events.OrderGiven("pause"))
        self.clock.later(seconds, lambda: self._to(node, events.OrderGiven("resume")))

    def drain(self) -> None:
        """Every head is asked to end, also one that is started later in this run."""
        self.draining = True
        for node in list(self.nodes.values()):
            if not node.spec.inputs:
                self._to(node, events.OrderGiven("drain"))

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

    # ---- after each turn of a node

    def _turned(self, node: Node) -> None:
        self._perform_all(node, node.stage.turn(node.now))
        if not node.stage.whole and next(self._partial_turns) % (ANEW * self._check_every) == 0:
            node.tell(events.TimePassed())
            missed = node.stage.turn(node.now)
            self.problems += [
                f"{self.now:.4f} {node.incarnation}: a turn has missed {action}"
                for action in missed
                if not isinstance(action, MAY_WAIT)
            ]
            self._perform_all(node, missed)
        if next(self._turns) % self._check_every == 0 and len(self.problems) < MOST_PROBLEMS:
            found = breaches(node.stage, self._largest, self._expansion)
            self.problems += [f"{self.now:.4f} {node.incarnation}: {breach}" for breach in found]

    def _perform_all(self, node: Node, actions: Sequence[act.Action]) -> None:
        for action in actions:
            if not self._perform(node, action):
                self._perform_on_line(node, action)

    def _perform(self, node: Node, action: act.Action) -> bool:
        """What stays in the process or on its disk."""
        match action:
            case act.StartTask(task):
                node.workers.put(task)
            case act.StoreDeadLetter(letter):
                node.later(0.001, lambda: self._write_dead_letter(node, letter))
            case act.Commit(position, total, ended):
                node.later(0.002, lambda: self._commit(node, position, total, ended))
            case act.LimitOutputs(limit):
                node.set_limit(limit)
            case act.Ack(ids):
                if (source := node.source) is not None:
                    node.later(0.002, lambda: source.acked(ids))
            case act.CloseSource():
                node.close_source()
            case act.ToLink(shell, what):
                node.links.perform(shell, what)
            case act.Stop(ended):
                self._stop(node, ended)
            case act.Exit():
                self._exited(node.key)
            case _:
                return False
        return True

    def _perform_on_line(self, node: Node, action: act.Action) -> None:
        network, mine = self.network, node.incarnation
        match action:
            case act.Tell(peer, frame):
                to = self.nodes.get(peer)
                if to is not None and (route := network.route(mine, to.incarnation)) is not None:
                    self._tell(to.incarnation, route, frame, mine)
            case act.Reply(route, frame):
                if (consumer := network.consumer(route)) is None:
                    self.to_strangers.append(frame)
                    return
                network.control(
                    ("reply", mine, consumer),
                    lambda: self._reply(consumer, route, events.UpstreamReceived(node.key, frame)),
                )
            case act.LogEvent(event, fields):
                if event in FAULTS and fields.get("sender") != STRANGER:
                    self.problems.append(f"{self.now:.4f} {mine}: {event} {fields}")
            case act.Publish(b"announcement", frame):
                for other in list(self.nodes.values()):
                    if node.key[0] in other.upstreams:
                        self._announce(node, other.incarnation, frame)
            case act.Publish(b"snapshot", frame) if self.watcher is not None:
                body = frames.read(frame)
                if isinstance(body, frames.Snapshot):
                    self.watcher(body.body, self.now)
            case act.OpenSession(session, address):
                network.connect(session, mine, address)
                self.clock.later(CONNECT_S, lambda: self._opened(node, session, address))
            case act.CloseSession(session):
                network.cut(session)
            case act.SendParcel(session, header, body):
                network.data(
                    session,
                    lambda address: self._to(self._at(address), events.ParcelReceived(header, body)),
                )

    def forge(self, key: Key, frame: frames.Frame) -> None:
        """A stranger sends a frame to the feedback of an instance."""
        if key in self.nodes:
            self._tell(self.nodes[key].incarnation, STRANGER.encode(), frames.write(frame), STRANGER)

    def _tell(self, to: str, route: bytes, frame: bytes, sender: str) -> None:
        self.network.control(
            ("tell", sender, to),
            lambda: self._to(self._alive(to), events.FeedbackReceived(route, frame, sender)),
        )

    def _reply(self, to: str, route: bytes, event: events.Event) -> None:
        """By the time it arrives, its line may be gone."""
        if self.network.consumer(route) == to:
            self._to(self._alive(to), event)

    def _announce(self, node: Node, to: str, frame: bytes) -> None:
        self.network.control(
            ("publish", node.incarnation, to),
            lambda: self._to(self._alive(to), events.UpstreamReceived(node.key, frame)),
        )

    # ---- what comes of actions

    def _to(self, node: Node | None, event: events.Event) -> None:
        if node is None:
            return

        def happens() -> None:
            try:
                node.tell(event)
            except PeerError as error:
                self.problems.append(f"{self.now:.4f} {node.incarnation}: {error}")

        node.event(happens)

    def _alive(self, incarnation: str) -> Node | None:
        return next((n for n in self.nodes.values() if n.incarnation == incarnation), None)

    def _at(self, address: str) -> Node | None:
        return next((n for n in self.nodes.values() if n.inbox == address), None)

    def _opened(self, node: Node, session: bytes, address: str) -> None:
        is_there = self._at(address) is not None and session in self.network.connections
        self._to(node, events.SessionReady(session) if is_there else events.SessionLost(session))

    def _store(self, node: Node, run: SimulatedTask) -> None:
        for id, path in run.stored:
            self.stored.append(Stored(node.spec.name, id, path, node.key[1], self.now))

    def _write_dead_letter(self, node: Node, letter: DeadLetter) -> None:
        written = self.random.random() >= self.network.faults.disk
        if written:
            piece = letter.piece
            id = letter.id if piece is None else piece.section.columns()[0][piece.start]
            self.dead_letters.append((node.spec.name, id, letter))
        node.tell(events.LetterWritten(letter, written))

    def _commit(self, node: Node, position: int, total: int, ended: bool) -> None:
        disk = self.disks[node.key]
        self.disks[node.key] = replace(
            disk, position=position if total else disk.position, completed=disk.completed or ended
        )
        node.tell(events.PositionStored(total, ended))
        if total and node.source is not None:
            node.source.committed(position)

    def _stop(self, node: Node, ended: bool) -> None:
        self.stopped.append(node.stage)
        (self.marks if ended else self.left).add(node.key)
        for other in list(self.nodes.values()):
            delay_s = self.random.random() * LOOK_S
            self.clock.later(delay_s, lambda other=other: other.event(lambda: self._look(other)))  # type: ignore[misc]

    # ---- what tests ask

    def ids(self, stage: str) -> Iterator[str]:
        return (one.id for one in self.stored if one.stage == stage)

    def state(self, key: Key) -> State:
        return self.nodes[key].stage.state
