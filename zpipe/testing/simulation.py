"""A pipeline that runs: each turn of an instance, what comes of its actions, and what tests ask.

May live here: what the loop does in `zpipe.daemon`, without side effects, and looking for broken rules after every turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from zpipe.core import actions as act
from zpipe.core.lifecycle import State
from zpipe.core.stage import Stage
from zpipe.core.wire import frames
from zpipe.core.work.task import DeadLetter
from zpipe.errors import PeerError
from zpipe.testing.clock import Event
from zpipe.testing.invariants import breaches
from zpipe.testing.network import Faults
from zpipe.testing.node import Key, Node
from zpipe.testing.processes import CONNECT_S, Processes
from zpipe.testing.simulated_plugin import Disk, SimulatedTask, Spec, Stored

LOOK_S = 1.0
"""Marks of stopped neighbours are looked for this often."""
MOST_PROBLEMS = 20
STRANGER = "stranger"
"""Who sends what a test has forged."""
FAULTS = ("session.broken", "session.given_up", "session.refused", "statement.refused")
"""Notes of what never happens between two of this pipeline, whatever the network does."""


class Simulation(Processes):
    """The pipeline of `specs`, from its start.

    stored    what sinks kept;  dead_letters: (stage, id, dead letter)
    stopped   the cores of instances that stopped, left or not
    to_strangers  frames that answer what was forged, or came too late for the line they were to go by
    watcher   hears every snapshot that is published, at once, with the time
    problems  rules that were broken, in words;  largest, expansion: see `invariants`
    """

    def __init__(
        self,
        specs: Sequence[Spec],
        seed: int = 0,
        faults: Faults | None = None,
        disks: dict[Key, Disk] | None = None,
        largest: int = 1000,
        expansion: int = 10_000,
    ) -> None:
        self.stored: list[Stored] = []
        self.dead_letters: list[tuple[str, str, DeadLetter]] = []
        self.stopped: list[Stage] = []
        self.problems: list[str] = []
        self.to_strangers: list[bytes] = []
        self.watcher: Callable[[dict[str, Any], float], None] | None = None
        self._largest = largest
        self._expansion = expansion
        super().__init__(specs, seed, faults, disks)

    def run(self, until: Callable[[], bool] | None = None, seconds: float = 600.0) -> bool:
        """Plays events until `until` holds (default: all is over). False if that takes more than `seconds`."""
        return self.clock.run(until or (lambda: self.over), seconds)

    def later(self, delay_s: float, event: Event) -> None:
        self.clock.later(delay_s, event)

    # ---- after each turn of a node

    def _turned(self, node: Node) -> None:
        for action in node.stage.turn(self.now):
            if not self._perform(node, action):
                self._perform_on_line(node, action)
        if len(self.problems) < MOST_PROBLEMS:
            found = breaches(node.stage, self._largest, self._expansion)
            self.problems += [f"{self.now:.4f} {node.incarnation}: {breach}" for breach in found]

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
            case act.CloseSource():
                node.close_source()
            case act.Stop(ended):
                self._stop(node, ended)
            case act.Exit(failed):
                node.exit_failed = failed
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
                    lambda: self._reply(
                        consumer, route, lambda n: n.stage.upstream_received(node.key, frame, self.now)
                    ),
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
                self.later(CONNECT_S, lambda: self._opened(node, session, address))
            case act.CloseSession(session):
                network.cut(session)
            case act.SendParcel(session, header, body):
                network.data(
                    session,
                    lambda address: self._to(
                        self._at(address), lambda n: n.stage.parcel_received(header, body, self.now)
                    ),
                )

    def forge(self, key: Key, frame: frames.Frame) -> None:
        """A stranger sends a frame to the feedback of an instance."""
        if key in self.nodes:
            self._tell(self.nodes[key].incarnation, STRANGER.encode(), frames.write(frame), STRANGER)

    def _tell(self, to: str, route: bytes, frame: bytes, sender: str) -> None:
        self.network.control(
            ("tell", sender, to),
            lambda: self._to(self._alive(to), lambda n: n.stage.feedback_received(route, frame, self.now, sender)),
        )

    def _reply(self, to: str, route: bytes, handle: Callable[[Node], None]) -> None:
        """By the time it arrives, its line may be gone."""
        if self.network.consumer(route) == to:
            self._to(self._alive(to), handle)

    def _announce(self, node: Node, to: str, frame: bytes) -> None:
        self.network.control(
            ("publish", node.incarnation, to),
            lambda: self._to(self._alive(to), lambda n: n.stage.upstream_received(node.key, frame, self.now)),
        )

    # ---- what comes of actions

    def _to(self, node: Node | None, handle: Callable[[Node], None]) -> None:
        if node is None:
            return

        def event() -> None:
            try:
                handle(node)
            except PeerError as error:
                self.problems.append(f"{self.now:.4f} {node.incarnation}: {error}")

        node.event(event)

    def _alive(self, incarnation: str) -> Node | None:
        return next((n for n in self.nodes.values() if n.incarnation == incarnation), None)

    def _at(self, address: str) -> Node | None:
        return next((n for n in self.nodes.values() if n.inbox == address), None)

    def _opened(self, node: Node, session: bytes, address: str) -> None:
        if self._at(address) is not None and session in self.network.connections:
            node.event(lambda: node.stage.session_ready(session))
        else:
            node.event(lambda: node.stage.session_lost(session))

    def _store(self, node: Node, run: SimulatedTask) -> None:
        for id, path in run.stored:
            self.stored.append(Stored(node.spec.name, id, path, node.key[1], self.now))

    def _write_dead_letter(self, node: Node, letter: DeadLetter) -> None:
        written = self.random.random() >= self.network.faults.disk
        if written:
            piece = letter.piece
            id = letter.id if piece is None else piece.section.columns()[0][piece.start]
            self.dead_letters.append((node.spec.name, id, letter))
        node.stage.letter_written(letter, written, self.now)

    def _commit(self, node: Node, position: int, total: int, ended: bool) -> None:
        disk = self.disks[node.key]
        if total:
            disk.position = position
        disk.completed |= ended
        node.stage.committed(total, ended)

    def _stop(self, node: Node, ended: bool) -> None:
        self.stopped.append(node.stage)
        if not ended:
            return
        self.marks.add(node.key)
        for other in list(self.nodes.values()):
            delay_s = self.random.random() * LOOK_S
            self.later(delay_s, lambda other=other: other.event(lambda: self._look(other)))  # type: ignore[misc]

    # ---- what tests ask

    def ids(self, stage: str) -> Iterator[str]:
        return (one.id for one in self.stored if one.stage == stage)

    def state(self, key: Key) -> State:
        return self.nodes[key].stage.state
