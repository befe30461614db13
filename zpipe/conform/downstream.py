"""A scripted downstream instance: it says hello, grants, takes and acks, as well or as badly as a case asks it to.

What a consumer does belongs here, said in maps and not by the code of the core. Must not live here: which case wants what.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from zpipe.conform.upstream import Note, read_frame, shown, shown_frame
from zpipe.conform.verdicts import NotKept
from zpipe.core.wire import cbor, frames, section
from zpipe.core.wire.frames import Announcement, Confirm, Done, Parcel, Refuse, Snapshot, Welcome
from zpipe.errors import PeerError
from zpipe.transport.neighbour_sockets import DownstreamSockets

STAGE = "down"
HEARTBEAT_S = 1.0
SOON_S = 0.02
PEER_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Received:
    """A message as it came, copies included."""

    number: int
    id: str
    origin: float
    payload: Any
    attempt: int
    sequence: int
    session: bytes
    new: bool


@dataclass
class DownstreamSession:
    """What this end knows of a session."""

    name: bytes
    incarnation: str
    hello: int
    limit_messages: int = 0
    limit_bytes: int = 0
    received: int = 0
    arrived_messages: int = 0
    arrived_bytes: int = 0
    released: int = 0
    released_bytes: int = 0
    floor: int = 0
    statements: int = 0
    ends: list[int] = field(default_factory=list)
    confirms: list[Confirm] = field(default_factory=list)
    open: bool = True


@dataclass
class DownstreamHabits:
    """What a scripted downstream instance does by itself; a case changes it at any time.

    greeting  it says hello when it is connected, and again after a session has ended
    stating   it states itself at every heartbeat and soon after something has changed
    granting  it grants `queue` messages above what it has released; else its limits stay as they are
    acking    what has come is released and acked at once
    reading   what has come to the inbox is read
    write     in which form of CBOR it says what it says
    """

    greeting: bool = True
    stating: bool = True
    granting: bool = True
    acking: bool = True
    reading: bool = True
    write: Callable[[Any], bytes] = cbor.write


class Downstream:
    """One incarnation of `down` INSTANCE, in session with one instance of the stage. A case changes its habits."""

    def __init__(
        self, instance: int, inbox: str, feedback: str, control: str, note: Note, pipeline: str, queue: int = 1000
    ) -> None:
        self.instance, self.inbox, self.pipeline, self.queue = instance, inbox, pipeline, queue
        self.queue_bytes = 64 << 20
        self.incarnation, self.secret = os.urandom(8).hex(), os.urandom(16)
        self.habits = DownstreamHabits()
        self.connected = False
        self.number = 0
        self.sessions: list[DownstreamSession] = []
        self.received: list[Received] = []
        self.refuses: list[Refuse] = []
        self.welcomes: list[Welcome] = []
        self.dones: list[Done] = []
        self.announcements: list[Announcement] = []
        self.snapshots: list[dict[str, Any]] = []
        self.taps: list[frames.Tap] = []
        self.connections = 0
        self.lowest: dict[str, int] = {}
        self._seen: dict[str, set[int]] = {}
        self._seen_stopped = False
        self._note = note
        self._sockets = DownstreamSockets(inbox, feedback, control)
        self._hello_at: float | None = None
        self._state_at: float | None = None
        self._heard_at = 0.0

    # ---- what a case asks for

    @property
    def session(self) -> DownstreamSession | None:
        return next((one for one in reversed(self.sessions) if one.open), None)

    @property
    def open_session(self) -> DownstreamSession:
        """The same, for a case that has waited until there is one."""
        session = self.session
        assert session is not None
        return session

    @property
    def ids(self) -> list[str]:
        """Of the messages that came, each once, in order."""
        return [one.id for one in self.received if one.new]

    @property
    def state(self) -> str:
        return self.announcements[-1].state if self.announcements else ""

    def hello(self, **changed: Any) -> None:
        """Says hello, with the next number unless `changed` has another; without the fields for which it has None. Its newest
        number is the highest said."""
        self.number = max(self.number, changed.get("number", self.number + 1))
        frame: dict[str, Any] = {
            "kind": "hello",
            "version": 2,
            "pipeline": self.pipeline,
            "stage": STAGE,
            "instance": self.instance,
            "incarnation": self.incarnation,
            "secret": self.secret,
            "outlet": "",
            "upstream": "work",
            "inbox": self.inbox,
            "number": self.number,
            "queue_messages": self.queue,
            "suspects_of": "",
            "suspects": [],
            "codecs": ["cbor"],
        }
        self.say({name: value for name, value in (frame | changed).items() if value is not None})

    def request(self, what: str, number: int = 1) -> None:
        self.say({"kind": "request", "number": number, "what": what})

    def say(self, frame: dict[str, Any], quiet: bool = False) -> None:
        if not quiet:
            self._note(shown(frame))
        self._sockets.say(self.habits.write(frame))

    def garble(self, encoded: Iterable[bytes]) -> None:
        for one in encoded:
            self._note(f"{len(one)} bytes to the feedback socket")
            self._sockets.say(one)

    def make_statement(self, session: DownstreamSession | None = None, **changed: Any) -> None:
        """States the session, with fields changed."""
        session = session or self.open_session
        session.statements = changed.get("number", session.statements + 1)
        if self.habits.granting:
            session.limit_messages = max(session.limit_messages, session.released + self.queue)
            session.limit_bytes = max(session.limit_bytes, session.released_bytes + self.queue_bytes)
        frame = {
            "kind": "statement",
            "session": session.name,
            "number": session.statements,
            "limit_messages": session.limit_messages,
            "limit_bytes": session.limit_bytes,
            "received": session.received,
            "released": session.released,
            "floor": session.floor,
            "ranges": [],
            "returned": [],
            "finished": [],
            "rate": 0.0,
            "reply": False,
            "leaving": False,
            "seen_stopped": self._seen_stopped,
        }
        self.say(frame | changed, quiet=not changed)

    def ack_all(self) -> None:
        """Releases and acks all that has come."""
        for one in self.sessions:
            one.released, one.released_bytes = one.arrived_messages, one.arrived_bytes
            one.floor = one.received
        self._state_at = 0.0

    def forget(self) -> None:
        """Gives the session up, as after a loss of connection: the next hello asks for another."""
        for one in self.sessions:
            one.open = False
        self._hello_at = 0.0 if self.connected and self.habits.greeting else None

    def poll(self, timeout_s: float) -> None:
        """Waits until something has come."""
        self._sockets.poll(timeout_s)

    def close(self) -> None:
        """As if it had been killed."""
        self._sockets.close()

    # ---- what it does by itself

    def turn(self, now: float) -> None:
        self._follow_connections(now)
        for parts in self._sockets.published():
            self._take_published(parts)
        for parts in self._sockets.answers():
            self._heard_at = now
            self._take_answer(parts)
        for parts in self._sockets.parcels() if self.habits.reading else ():
            self._take_parcel(parts)
        session = self.session
        if session is not None and now - self._heard_at > PEER_TIMEOUT_S:
            self.forget()
            session = None
        if session is None and self._hello_at is not None and now >= self._hello_at and self.connected:
            self.hello(**({} if self._hello_at == 0.0 else {"number": self.number}))
            self._hello_at = now + HEARTBEAT_S
        if session is not None and self.habits.stating and self._state_at is not None and now >= self._state_at:
            self._state_at = now + HEARTBEAT_S
            self.make_statement(session)

    def _follow_connections(self, now: float) -> None:
        for up in self._sockets.connections():
            self.connected = up
            self.connections += up
            if up:
                self._heard_at = now
                self._hello_at = 0.0 if self.habits.greeting else None
            else:
                self._note("(the connection was lost)")
                for one in self.sessions:
                    one.open = False

    def _take_published(self, parts: list[bytes]) -> None:
        frame = read_frame(parts, 2, "the control socket")
        topic = parts[0].decode("ascii", "replace")
        if topic != frame.kind:
            raise NotKept("-", "the topic is the kind of the frame", f"topic {topic!r} before a {frame.kind}")
        if isinstance(frame, Announcement):
            if not self.announcements or self.announcements[-1] != frame:
                self._note("<- " + shown_frame(frame))
            self.announcements.append(frame)
            if frame.state == "STOPPED" and not self._seen_stopped and self.habits.acking:
                self._seen_stopped = True
                self._state_at = 0.0
        elif isinstance(frame, Snapshot):
            self.snapshots.append(frame.body)
        elif isinstance(frame, frames.Tap):
            self.taps.append(frame)

    def _take_answer(self, parts: list[bytes]) -> None:
        frame = read_frame(parts, 1, "the answers to a DEALER")
        if isinstance(frame, Confirm):
            for one in self.sessions:
                if one.name == frame.session:
                    one.confirms.append(frame)
                    self.lowest[one.incarnation] = max(self.lowest.get(one.incarnation, 0), frame.lowest)
            return
        self._note("<- " + shown_frame(frame))
        if isinstance(frame, Welcome):
            self.welcomes.append(frame)
            if frame.number == self.number and all(one.name != frame.session for one in self.sessions):
                self.forget()
                self._hello_at = None
                if all(one.incarnation != frame.incarnation for one in self.sessions):
                    self._seen.clear()
                self.sessions.append(DownstreamSession(frame.session, frame.incarnation, frame.number))
                self._state_at = 0.0
        elif isinstance(frame, Refuse):
            self.refuses.append(frame)
            if self.session is not None and frame.session == self.session.name:
                self.forget()
        elif isinstance(frame, Done):
            self.dones.append(frame)

    def _take_parcel(self, parts: list[bytes]) -> None:
        if len(parts) != 2:
            raise NotKept("-", "two frames a parcel", f"{len(parts)} frames")
        try:
            header = frames.read(parts[0])
        except PeerError as error:
            raise NotKept("-", "well-formed headers of parcels", str(error)) from None
        session = next((one for one in self.sessions if one.name == header.session), None)  # type: ignore[union-attr]
        if session is None or not isinstance(header, Parcel):
            raise NotKept("-", "parcels and ends of an open session", shown_frame(header))
        if not session.open or header.sequence <= session.received:
            return
        if header.sequence != session.received + 1:
            raise NotKept("-", f"sequence {session.received + 1}", f"sequence {header.sequence}: a gap")
        session.received = header.sequence
        if header.is_end:
            self._note(f"<- end, sequence {header.sequence}")
            session.ends.append(header.sequence)
        else:
            self._take_sections(session, header, parts[1])
        self._check_credit(session)
        if self.habits.acking:
            session.released, session.released_bytes = session.arrived_messages, session.arrived_bytes
            session.floor = session.received
        self._state_at = 0.0

    def _take_sections(self, session: DownstreamSession, header: Parcel, body: bytes) -> None:
        rows = header.rows()
        if sum(row.size for row in rows) != len(body):
            raise NotKept("-", "rows whose bytes add up to the body", f"{header.sections} and {len(body)} bytes")
        at, seen = 0, self._seen.setdefault(session.incarnation, set())
        for row in rows:
            try:
                columns = section.decode(body[at : at + row.size], row.messages)
            except PeerError as error:
                raise NotKept("-", "well-formed sections", str(error)) from None
            at += row.size
            for number, (id, origin, payload) in enumerate(
                zip(columns.ids, columns.origins, columns.payloads, strict=True), row.first
            ):
                if number < self.lowest.get(session.incarnation, 0):
                    raise NotKept("-", f"nothing below `lowest` {self.lowest[session.incarnation]}", f"number {number}")
                new = number not in seen
                seen.add(number)
                self.received.append(
                    Received(number, id, origin, payload, row.attempt, header.sequence, session.name, new)
                )
        session.arrived_messages += sum(row.messages for row in rows)
        session.arrived_bytes += len(body)
        if len(self.received) < 2000:
            firsts = ", ".join(f"{row.messages} from number {row.first}, attempt {row.attempt}" for row in rows)
            self._note(f"<- parcel {header.sequence}: {firsts}")

    def _check_credit(self, session: DownstreamSession) -> None:
        for name, arrived, limit in (
            ("messages", session.arrived_messages, session.limit_messages),
            ("bytes", session.arrived_bytes, session.limit_bytes),
        ):
            if arrived > limit:
                raise NotKept(f"a credit of {limit} {name}", "no more than that", f"{arrived} {name}")
