"""A scripted upstream instance: it welcomes, sends, confirms and announces, as well or as badly as a case asks it to.

What a producer does belongs here, said in maps and not by the code of the core, so that the two cannot be wrong together.
Must not live here: which case wants what.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from zpipe.conform.verdicts import NotKept
from zpipe.core.wire import cbor, frames
from zpipe.core.wire.frames import Hello, Refuse, Statement
from zpipe.errors import PeerError
from zpipe.transport.neighbour_sockets import UpstreamSockets

STAGE = "up"
HEARTBEAT_S = 1.0
PARCEL_MESSAGES = 256
NOTHING_STATED = Statement(b"", 0, 0, 0, 0, 0, 0, [], [], [], 0.0, reply=False, leaving=False, seen_stopped=False)
Note = Callable[[str], None]


@dataclass
class Item:
    """A message of the link, by its number."""

    number: int
    id: str
    payload: Any
    attempt: int = 1


@dataclass
class UpstreamSession:
    """What this end knows of a session. `grants`: limits that the stage has stated and not taken back, by statement."""

    name: bytes
    hello: Hello
    route: bytes
    sequence: int = 0
    sent_messages: int = 0
    sent_bytes: int = 0
    statements: list[Statement] = field(default_factory=list)
    parcels: dict[int, list[Item]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    rows: set[tuple[int, int, int]] = field(default_factory=set)
    grants: list[tuple[int, int]] = field(default_factory=list)
    open: bool = True

    @property
    def newest(self) -> Statement:
        """The last statement; before the first, one that grants nothing and acks nothing."""
        return self.statements[-1] if self.statements else NOTHING_STATED

    @property
    def held_or_granted(self) -> int:
        """Messages that the stage holds of this session or has to take if they come."""
        return max([self.sent_messages, *(limit for _, limit in self.grants)]) - self.newest.released


@dataclass
class UpstreamHabits:
    """What a scripted upstream instance does by itself; a case changes it at any time.

    answering   hellos are welcomed
    confirming  statements that ask for it, and every heartbeat, are answered by a confirm
    silent      nothing at all is said
    need_bytes  what its confirms say
    extra       keys that are added to every frame
    write       in which form of CBOR it says what it says
    """

    answering: bool = True
    confirming: bool = True
    silent: bool = False
    need_bytes: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    write: Callable[[Any], bytes] = cbor.write


class Upstream:
    """One incarnation of `up` INSTANCE. A case changes its habits and calls its methods; `turn` does what is due by itself."""

    def __init__(self, instance: int, feedback: str, control: str, note: Note, pipeline: str) -> None:
        self.instance = instance
        self.pipeline = pipeline
        self.incarnation = os.urandom(8).hex()
        self.habits = UpstreamHabits()
        self.state, self.ended = "RUNNING", False
        self.hellos: list[Hello] = []
        self.refuses: list[Refuse] = []
        self.sessions: list[UpstreamSession] = []
        self.unsent: deque[Item] = deque()
        self.made = 0
        self.unknown_statements = 0
        self.last_route = b""
        self.acked: set[int] = set()
        self._note = note
        self._sockets = UpstreamSockets(feedback, control)
        self._heartbeat_at = 0.0

    # ---- what a case asks for

    @property
    def session(self) -> UpstreamSession | None:
        """The open session of the newest hello."""
        return next((one for one in reversed(self.sessions) if one.open), None)

    @property
    def open_session(self) -> UpstreamSession:
        """The same, for a case that has waited until there is one."""
        session = self.session
        assert session is not None
        return session

    @property
    def idle(self) -> bool:
        """Nothing is unsent, and nothing that was sent is unacked."""
        return not self.unsent and not any(one.parcels for one in self.sessions)

    def make(self, payloads: Iterable[Any], ids: Iterable[str] | None = None) -> list[Item]:
        """The next messages of the link. Their ids are of the instance's number and theirs, unless others are given."""
        made = []
        names = iter(ids) if ids is not None else None
        for payload in payloads:
            self.made += 1
            name = f"{STAGE}:{self.instance}-{self.made}" if names is None else next(names)
            made.append(Item(self.made, name, payload))
        return made

    def feed(self, payloads: Iterable[Any]) -> None:
        """Messages that are sent as credit comes, and again whenever a session ends."""
        self.unsent.extend(self.make(payloads))

    def welcome(self, hello: Hello, route: bytes, **changed: Any) -> None:
        """Answers the hello. Fields can be changed; a changed session opens none here."""
        session = UpstreamSession(os.urandom(16), hello, route)
        answer: dict[str, Any] = {
            "kind": "welcome",
            "version": 2,
            "session": session.name,
            "incarnation": self.incarnation,
            "number": hello.number,
        }
        if "session" not in changed:
            for one in self.sessions:
                self.give_up(one)
            self.sessions.append(session)
            self._sockets.connect(session.name, hello.inbox, hello.queue_messages)
        self.say(route, answer | changed)

    def send(self, items: list[Item], session: UpstreamSession | None = None, **changed: Any) -> None:
        """One parcel of one section, whatever the credit. `changed`: fields of the header; `body` in place of the section, and
        `size` in place of its length."""
        session = session or self.open_session
        columns = [[one.id for one in items], [1.7e9] * len(items), [one.payload for one in items], None]
        body = changed.pop("body", self.habits.write(columns))
        size = changed.pop("size", len(body))
        session.sequence += 1
        session.sent_messages += len(items)
        session.sent_bytes += len(body)
        session.parcels[session.sequence] = items
        session.sizes[session.sequence] = len(body)
        row = [len(items), size, items[0].number, items[0].attempt, 0]
        header = {
            "kind": "parcel",
            "session": session.name,
            "sequence": session.sequence,
            "sections": [row],
            **self.habits.extra,
            **changed,
        }
        self._note(f"parcel {header['sequence']} of {len(items)} messages from number {row[2]}, attempt {row[3]}")
        self.push([self.habits.write(header), body], session)

    def push(self, parts: list[bytes], session: UpstreamSession | None = None) -> None:
        session = session or self.open_session
        if not self._sockets.push(session.name, parts):
            self._note("a PUSH whose other end is gone")
            self.give_up(session)

    def end(self, session: UpstreamSession | None = None) -> None:
        """The end of the stream, in the data path."""
        session = session or self.open_session
        session.sequence += 1
        session.parcels[session.sequence] = []
        self._note(f"end, sequence {session.sequence}")
        header = {"kind": "parcel", "session": session.name, "sequence": session.sequence, "sections": []}
        self.push([self.habits.write(header), b""], session)

    def flush(self) -> None:
        """Announces FLUSHED."""
        self.state = "FLUSHED"
        self.announce()

    def stop(self) -> None:
        """Announces STOPPED, at the end of the stream."""
        self.state, self.ended = "STOPPED", True
        self.announce()

    def give_up(self, session: UpstreamSession) -> None:
        """Closes the session's PUSH; what is unacked of it is unsent again, in order, with one attempt more."""
        if not session.open:
            return
        session.open = False
        self._sockets.disconnect(session.name)
        items = sorted((one for sent in session.parcels.values() for one in sent), key=lambda one: one.number)
        session.parcels = {}
        for one in items:
            one.attempt += 1
        self.unsent.extendleft(reversed(items))

    def refuse(self, session: UpstreamSession, reason: str) -> None:
        self.say(session.route, {"kind": "refuse", "session": session.name, "reason": reason, "number": 0})

    def confirm(self, session: UpstreamSession, **changed: Any) -> None:
        number = session.newest.number
        session.grants = [one for one in session.grants if one[0] >= number]
        unacked = [one.number for sent in session.parcels.values() for one in sent]
        unacked += [one.number for one in self.unsent]
        frame = {
            "kind": "confirm",
            "session": session.name,
            "number": number,
            "sequence": session.sequence,
            "sent_messages": session.sent_messages,
            "sent_bytes": session.sent_bytes,
            "lowest": min(unacked, default=self.made + 1),
            "need_bytes": self.habits.need_bytes,
        }
        self.say(session.route, frame | changed, quiet=not changed)

    def say(self, route: bytes, frame: dict[str, Any], quiet: bool = False) -> None:
        if not quiet:
            self._note(shown(frame))
        self._sockets.answer(route, self.habits.write(frame | self.habits.extra))

    def garble(self, encoded: Iterable[bytes]) -> None:
        """Says these to the stage of the open session, and publishes them."""
        for one in encoded:
            self._note(f"{len(one)} bytes as an answer, and as an announcement")
            self._sockets.answer(self.open_session.route, one)
            self._sockets.publish(b"announcement", one)

    def announce(self) -> None:
        frame = {
            "kind": "announcement",
            "pipeline": self.pipeline,
            "stage": STAGE,
            "instance": self.instance,
            "incarnation": self.incarnation,
            "state": self.state,
            "hungry": False,
            "ended": self.ended,
        }
        self._sockets.publish(b"announcement", self.habits.write(frame | self.habits.extra))

    def poll(self, timeout_s: float) -> None:
        """Waits until something has come."""
        self._sockets.poll(timeout_s)

    def close(self) -> None:
        """As if it had been killed."""
        self._sockets.close()

    # ---- what it does by itself

    def turn(self, now: float) -> None:
        for parts in self._sockets.read():
            self._take(parts)
        if self.habits.silent:
            return
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + HEARTBEAT_S
            self.announce()
            for one in self.sessions:
                if one.open and one.statements and self.habits.confirming:
                    self.confirm(one)
        self._send_what_fits()

    def _send_what_fits(self) -> None:
        session = self.session
        while self.unsent and session is not None and session.open:
            newest = session.newest
            room = min(newest.limit_messages - session.sent_messages, PARCEL_MESSAGES)
            attempt = self.unsent[0].attempt
            items: list[Item] = []
            for one in self.unsent:
                follows = not items or one.number == items[-1].number + 1
                if len(items) >= room or one.attempt != attempt or not follows:
                    break
                items.append(one)
            size = len(self.habits.write([[one.id for one in items], [], [one.payload for one in items], None]))
            if not items or newest.leaving or session.sent_bytes + size + 9 * len(items) + 9 > newest.limit_bytes:
                return
            for _ in items:  # it is in `items`, so nothing is lost if the push fails
                self.unsent.popleft()
            self.send(items, session)

    def _take(self, parts: list[bytes]) -> None:
        frame = read_frame(parts, 2, "the feedback socket")
        route = self.last_route = parts[0]
        if isinstance(frame, Hello):
            self._note_came(frame)
            self.hellos.append(frame)
            if self.habits.answering and not self.habits.silent:
                self._answer_hello(frame, route)
        elif isinstance(frame, Statement):
            self._take_statement(frame, route)
        elif isinstance(frame, Refuse):
            self._note_came(frame)
            self.refuses.append(frame)
            for one in self.sessions:
                if one.name == frame.session:
                    self.give_up(one)
        else:
            raise NotKept(
                "-", "hello, statement and refuse are all that a consumer sends to feedback", f"a {frame.kind}"
            )

    def _answer_hello(self, hello: Hello, route: bytes) -> None:
        numbers = [one.hello.number for one in self.sessions if one.hello.incarnation == hello.incarnation]
        if not numbers or hello.number > max(numbers):
            self.welcome(hello, route)
        elif self.session is not None and self.session.hello.number == hello.number:
            again = {"session": self.session.name}
            self.welcome(hello, route, **again)

    def _take_statement(self, statement: Statement, route: bytes) -> None:
        session = next((one for one in self.sessions if one.name == statement.session), None)
        if session is None:
            self.unknown_statements += 1
        if session is None or not session.open:
            if not self.habits.silent:
                refuse = {"kind": "refuse", "session": statement.session, "reason": frames.NO_SESSION, "number": 0}
                self.say(route, refuse)
            return
        first, before = not session.statements, session.newest
        if not first and statement.number <= before.number:
            return
        self._check(session, before, statement)
        if first or (before.floor, before.ranges) != (statement.floor, statement.ranges):
            self._note_came(statement)
        session.statements.append(statement)
        session.grants.append((statement.number, statement.limit_messages))
        self._take_returned(session, statement)
        covered = [range(1, statement.floor + 1), *(range(*one) for one in statement.ranges)]
        for sequence in [one for one in session.parcels if any(one in some for some in covered)]:
            self.acked.update(one.number for one in session.parcels.pop(sequence))
        if statement.reply and self.habits.confirming and not self.habits.silent:
            self.confirm(session)

    def _take_returned(self, session: UpstreamSession, statement: Statement) -> None:
        back: list[Item] = []
        for row in statement.returned:
            sequence, start, stop = row
            if (sequence, start, stop) in session.rows:
                continue
            session.rows.add((sequence, start, stop))
            self._note(f"(was handed back messages {start} to {stop} of parcel {sequence})")
            sent = session.parcels.get(sequence)
            if sent is None:
                raise NotKept(
                    f"parcel {sequence}", "messages are handed back before they are acked", "a row after its ack"
                )
            gone = {one.number for one in sent[max(0, start) : stop]}
            back += [one for one in sent if one.number in gone]
            session.parcels[sequence] = [one for one in sent if one.number not in gone]
        self.unsent.extendleft(reversed(back))

    def _check(self, session: UpstreamSession, before: Statement, statement: Statement) -> None:
        """What can never be true of a statement (PROTOCOL.md, 6.3)."""
        wrong = ""
        if statement.received > session.sequence:
            wrong = f"received {statement.received} of {session.sequence} that were sent"
        elif statement.floor > statement.received or any(stop - 1 > statement.received for _, stop in statement.ranges):
            wrong = f"acks beyond what was received: {shown_statement(statement)}"
        elif statement.released > session.sent_messages:
            wrong = f"released {statement.released} of {session.sent_messages} messages that were sent"
        else:
            for name in ("received", "released", "floor"):
                if getattr(statement, name) < getattr(before, name):
                    wrong = f"a {name} of {getattr(statement, name)} after {getattr(before, name)}"
        if wrong:
            raise NotKept(f"{session.sequence} parcels of {session.sent_messages} messages", "what can be true", wrong)

    def _note_came(self, frame: Any) -> None:
        self._note("<- " + (shown_statement(frame) if isinstance(frame, Statement) else shown_frame(frame)))


def read_frame(parts: list[bytes], count: int, where: str) -> Any:
    """The frame of a message that has `count` parts, the last of which it is."""
    if len(parts) != count:
        raise NotKept("-", f"{count} frames a message on {where}", f"{len(parts)} frames")
    try:
        return frames.read(parts[-1])
    except PeerError as error:
        raise NotKept("-", f"well-formed frames on {where}", str(error)) from None


def shown(frame: dict[str, Any]) -> str:
    """A frame in one line, for people."""
    rest = ", ".join(f"{key} {_value(value)}" for key, value in frame.items() if key not in ("kind", "version"))
    return f"{frame['kind']}: {rest}"


def shown_frame(frame: Any) -> str:
    values = {name: getattr(frame, name) for name in type(frame).__slots__}
    return shown({"kind": frame.kind, **values})


def shown_statement(statement: Statement) -> str:
    names = ("number", "limit_messages", "limit_bytes", "received", "released", "floor", "ranges", "returned")
    text = ", ".join(f"{name} {getattr(statement, name)}" for name in names if getattr(statement, name) != [])
    flags = [name for name in ("reply", "leaving", "seen_stopped") if getattr(statement, name)]
    return "statement: " + ", ".join([text, *flags])


def _value(value: Any) -> str:
    text = value.hex()[:8] if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
