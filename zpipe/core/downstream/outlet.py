"""The sender side of one ZeroMQ link: what is unsent, what is in flight to whom, and whom to send to next.

May live here: the sections this stage answers for on one link, and where they are. It knows no plugin, no input and no
lifecycle; it hears of acks and tells each section's derivation.

`produced = acked + in_flight + unsent` holds after every call (messages).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from zpipe.core.actions import SendParcel
from zpipe.core.downstream.memory_link import NEVER, MemoryLink
from zpipe.core.downstream.outlet_session import Flight, OutletSession
from zpipe.core.policy import LinkPolicy
from zpipe.core.priority_queue import PriorityQueue
from zpipe.core.ranges import RangeSet
from zpipe.core.wire import frames
from zpipe.core.wire.section import Section

SOON_S = 0.001
"""A consumer with less work than this left is about to run dry: some round trips over ipc."""
WORTH_S = 0.005
"""A parcel is worth its overhead with so much work: with less, handing it over costs more than a tenth where processes share a
core."""
AWAKE = 4
"""So many idle consumers take turns before others are woken: a stage of a few instances shares its work evenly (as everybody
expects who adds one), and of 64 most sleep at light load."""
OVERDUE_S = 0.1
"""A consumer states what it has done within 20 ms. One that has stated nothing for so long does not get to run, or collects a
batch."""


class Outlet(MemoryLink):
    """A link that runs in ZeroMQ sessions.

    end_acked  some consumer that stays has acked the end of the stream: one that leaves does not pass it on
    needing    sessions, by name, whose room is too small for the next message
    numbers    names the sequence of its messages' numbers, where it goes on in later incarnations; "": it does not
    send_at    when what is unsent may be sent though no statement comes, since its consumer is about to run dry then
    """

    def __init__(self, name: str, consumer: str, policy: LinkPolicy, numbers: str = "", next_number: int = 1) -> None:
        super().__init__(name, consumer, next_number)
        self.sessions: dict[bytes, OutletSession] = {}
        self.needing: dict[bytes, OutletSession] = {}
        self.numbers = numbers
        self._policy = policy
        self._busy: PriorityQueue[OutletSession] = PriorityQueue()
        self._idle: PriorityQueue[OutletSession] = PriorityQueue()
        self._shut_out: dict[bytes, OutletSession] = {}
        self._suspicions: dict[int, int] = {}
        self._acked = RangeSet()
        self._acked.add(0, 1)
        self._remembered_from: int | None = None

    # ---- what comes from the stage

    def put(self, section: Section) -> None:
        """Sends a section that was numbered elsewhere, and whose derivation hears of its acks."""
        self._next_number = max(self._next_number, section.first + section.count)
        self.produced += section.count
        self.unsent_messages += section.count
        self.unsent_bytes += section.size
        self._unsent += section.isolate(self._suspicions) if self._suspicions else (section,)

    def settle_below(self, number: int) -> None:
        """Nothing below it will be put again."""
        if number > self._acked.first_stop:
            self._acked.add(0, number)

    def remember_from(self, number: int) -> None:
        """The next incarnation may send messages from `number` on again, acked or not: consumers are to know them."""
        self._remembered_from = number

    @property
    def lowest(self) -> int:
        """No message numbered below it will be sent again, nor by another incarnation that goes on with these numbers."""
        lowest, remembered_from = self._acked.first_stop, self._remembered_from
        return lowest if remembered_from is None else min(lowest, remembered_from)

    @property
    def outlets(self) -> tuple[Outlet, ...]:
        return (self,)

    @property
    def lacks_consumers(self) -> bool:
        """Something is to be delivered, and nobody is in session."""
        return self.held_messages > 0 and not self.sessions

    def figures(self, now: float) -> dict[str, Any]:
        """Its row of a snapshot, with the consumers in session and the credit that they have given."""
        return super().figures(now) | {"consumers": [session.figures() for session in self.sessions.values()]}

    # ---- sessions

    def open(self, session: OutletSession) -> None:
        """A consumer is in session from now on; it is sent nothing before it is `ready`."""
        self.sessions[session.id] = session

    def ready(self, session: OutletSession) -> None:
        """The session's PUSH is connected."""
        session.ready = True
        self._place(session)

    def _place(self, session: OutletSession) -> None:
        """Puts a session whose credit or work has changed among those that `_choose` looks at, or among those without credit. One
        that is idle and stays so keeps its turn: else a consumer that states something more often would get less."""
        room = session.room_messages > 0
        if session in self._idle:
            if room and session.released == session.sent_messages:
                return
            self._idle.discard(session)
        self._shut_out.pop(session.id, None)
        if room:
            self._busy.put(session, session.busy_until)
            return
        self._busy.discard(session)
        if session.without_credit:
            self._shut_out[session.id] = session

    def close(self, session: OutletSession) -> None:
        """The session is over: what was in flight is unsent again, ahead of the rest and in order, attempt + 1."""
        del self.sessions[session.id]
        self._busy.discard(session)
        self._idle.discard(session)
        self._shut_out.pop(session.id, None)
        self.needing.pop(session.id, None)
        for flight in reversed(session.flights.values()):
            for _, section in reversed(flight.sections):
                section.attempt += 1
                self.redelivered += section.count
                self._remove_in_flight(section)
                self._put_back(section)
        session.flights.clear()
        self._isolate()

    def suspect(self, rows: list[list[int]]) -> None:
        """A consumer died while the plugin had these messages: [start, stop, alone]. One that was alone in its call is to blame,
        and of several each may be: so each goes to a consumer by itself, and is run there alone or given up. How strongly it is
        suspected goes with it: 1 after a death among others, n + 1 after n deaths alone."""
        lowest = self._acked.first_stop
        for start, stop, alone in rows:
            for number in range(max(start, lowest), min(stop, self._next_number)):
                self._suspicions[number] = max(self._suspicions.get(number, 0), 1) + min(alone, 1)
        self._isolate()

    def _isolate(self) -> None:
        if self._suspicions:  # what is acked has killed nobody
            lowest = self._acked.first_stop
            self._suspicions = {number: n for number, n in self._suspicions.items() if number >= lowest}
            self._unsent = deque(piece for section in self._unsent for piece in section.isolate(self._suspicions))

    # ---- what comes from consumers

    def read_statement(self, session: OutletSession, statement: frames.Statement, now: float) -> None:
        """Applies a consumer's state, which can be true (`problem_of`): returns first, since a parcel with returned messages
        may be acked by the same."""
        if not session.read(statement, now):
            return
        self._place(session)
        for sequence, start, stop in reversed(statement.returned):  # each goes ahead of what is unsent
            flight = session.flights.get(sequence)
            if flight is not None and flight.take_back(start, stop):
                self._take_back(flight, start, stop)
        for sequence, start, stop in statement.finished:
            flight = session.flights.get(sequence)
            if flight is not None:
                for section in self._take_out(flight, start, stop):
                    self._ack(section)
        for flight in session.pop_acked(statement):
            self.end_acked |= flight.end and not session.leaving
            for _, section in flight.sections:
                self._remove_in_flight(section)
                self._ack(section)

    def _ack(self, section: Section) -> None:
        self.acked += section.count
        self._acked.add(section.first, section.first + section.count)
        section.settle()

    def _take_back(self, flight: Flight, start: int, stop: int) -> None:
        """Messages [start, stop) of the parcel were not started there: they may go to a sibling."""
        for section in reversed(self._take_out(flight, start, stop)):
            self.returned += section.count
            self._put_back(section)

    def _take_out(self, flight: Flight, start: int, stop: int) -> list[Section]:
        """Messages [start, stop) of the parcel, as far as they are still in flight in it; they are not from here on."""
        kept: list[tuple[int, Section]] = []
        out: list[Section] = []
        for offset, section in flight.sections:
            low, high = max(start - offset, 0), min(stop - offset, section.count)
            if low >= high:
                kept.append((offset, section))
                continue
            self._remove_in_flight(section)
            for a, b in ((0, low), (low, high), (high, section.count)):
                if a == b:
                    continue
                piece = section if (a, b) == (0, section.count) else section.cut(a, b)
                if (a, b) == (low, high):
                    out.append(piece)
                    continue
                kept.append((offset + a, piece))
                self.in_flight_messages += piece.count
                self.in_flight_bytes += piece.size
        flight.sections = kept
        return out

    # ---- sending

    def sendable(self, now: float) -> Iterator[SendParcel]:
        """Each parcel that credit allows now; in flight from the moment it is yielded."""
        self.send_at = NEVER
        while self._unsent:
            session = self._choose(now)
            if session is None:
                return
            sections, bodies = self._load(session)
            if not sections:  # encoded, the first was over its estimated share: choose again by its true size
                continue
            flight = session.launch(sections, now)
            self.needing.pop(session.id, None)
            self._place(session)
            for section in sections:
                self.in_flight_messages += section.count
                self.in_flight_bytes += section.size
            header = frames.write_parcel(session.id, flight.sequence, [section.row() for section in sections])
            yield SendParcel(session.id, header, b"".join(bodies))
        if self.needing:  # the message that needed room has gone to another session
            for session in self.needing.values():
                session.need_bytes = 0
            self.needing.clear()

    def ends(self, now: float) -> Iterator[SendParcel]:
        """The end of the stream to each session that has not been told since its last parcel. Nothing may be unsent."""
        for session in self.sessions.values():
            if session.ready and session.stated and not session.ended:
                yield SendParcel(session.id, frames.write_parcel(session.id, session.launch([], now).sequence, []), b"")

    @property
    def all_ended(self) -> bool:
        """Everybody in session has acked the end, and everything before it."""
        return all(session.ended and not session.flights for session in self.sessions.values())

    def stopped(self, ended: bool) -> tuple[()]:
        """Consumers hear it by what the instance announces."""
        return ()

    @property
    def stop_seen(self) -> bool:
        return all(session.seen_stopped for session in self.sessions.values())

    def _choose(self, now: float) -> OutletSession | None:
        """The consumer that would come to a new message first. None: nobody has room, or the message should wait for others to
        share its parcel."""
        for session in self._candidates(now):
            if self._fits(session):
                if self._worth_sending(session, now):
                    return session
                self.send_at = session.busy_until - SOON_S
                return None
        for session in self._shut_out.values():
            self._need(session, self._unsent[0].bytes_between(0, 1))  # room for one message is enough
        return None

    def _candidates(self, now: float) -> Iterable[OutletSession]:
        """The sessions with room, in the order in which they would come to a new message.

        Of those that are about to run dry, the first AWAKE by the numbers of their instances take turns: a few processes that
        are awake do the same with far fewer turns than many that are woken one after another. One that by its rate should be
        idle, and has not stated so, comes after all others until it does."""
        if len(self.sessions) == 1 and (only := self._busy.first) is not None and not only.overdue(now, OVERDUE_S):
            return (only,)  # there is nothing to choose
        while self._busy.lowest < now + SOON_S and (session := self._busy.first) is not None:
            self._busy.discard(session)
            self._idle.put(session, (session.hello.instance - 1) // AWAKE)
        while (session := self._idle.first) is not None and session.overdue(now, OVERDUE_S):
            session.busy_until = now + self._policy.peer_timeout_s
            self._place(session)
        return chain(self._idle, self._busy)

    def _need(self, session: OutletSession, size: int) -> None:
        """The next message goes to the session only if it gives room for so many bytes."""
        session.need_bytes = size
        self.needing[session.id] = session

    def _worth_sending(self, session: OutletSession, now: float) -> bool:
        """Whether to send to it now: at once if it is about to run dry or has everything that was sent, else when a parcel
        worth its overhead is there (Nagle's rule, RFC 896, with the statement in the place of TCP's ack).

        Without this, parcels under load shrink to what one turn of the loop produced: 40 messages in place of 300. A
        consumer states what it received within `ack_delay_s`, so nothing waits longer, whatever the consumer does with it.
        """
        if session.busy_until - now < SOON_S or session.received == session.sequence:
            return True
        worth = min(self._policy.parcel_messages, session.window // 4)
        return self.unsent_messages >= worth and session.room_messages >= max(worth, self._unsent[0].count)

    def _fits(self, session: OutletSession) -> bool:
        """Whether the first unsent message fits the byte credit. If not, the session is told how much it needs."""
        while (first := self._unsent[0]).size > session.room_bytes:
            if first.count == 1:
                self._need(session, self._weigh_first(session))
                return False
            share = first.count * max(session.room_bytes, 0) // first.size
            self._cut_first(max(1, min(share, first.count // 2)), session)
        return True

    def _cut_first(self, count: int, session: OutletSession) -> None:
        """Parts the first unsent section after `count` messages, which are for that session."""
        section = self._take_first()
        rest, part = section.cut(count, section.count), section.cut(0, count)
        part.body(session.codec)  # the exact size: it may be over its share
        self._put_back(rest)
        self._put_back(part)

    def _weigh_first(self, session: OutletSession) -> int:
        """The exact size of the first unsent section: of one that was cut, only its share is known until it is encoded."""
        first = self._unsent[0]
        self.unsent_bytes -= first.size
        first.body(session.codec)
        self.unsent_bytes += first.size
        return first.size

    def _load(self, session: OutletSession) -> tuple[list[Section], list[bytes]]:
        """Takes the sections of the next parcel, with their bodies: within the credit, the parcel limits, and a fair share of a
        short backlog.

        Without the share, one parcel would give the whole backlog to the first of several idle consumers. But work of a few
        milliseconds is not shared: among 64 consumers parcels would shrink to some messages, each as dear as hundreds.
        """
        room_messages = min(session.room_messages, self._policy.parcel_messages)
        if len(self.sessions) > 1:
            share = -(-self.unsent_messages // (len(self._idle) + len(self._busy)))
            room_messages = min(room_messages, max(share, int(session.rate * WORTH_S)))
        room_bytes = session.room_bytes
        sections: list[Section] = []
        bodies: list[bytes] = []
        loaded_bytes = 0
        while self._unsent and room_messages > 0 and len(sections) < frames.MAX_ROWS:
            first = self._unsent[0]
            if first.count > room_messages:
                if sections:  # cutting decodes and encodes: the rest may travel whole in the next parcel
                    break
                self._cut_first(room_messages, session)
                first = self._unsent[0]
            over_limit = sections and loaded_bytes + first.size > self._policy.parcel_bytes
            if over_limit or loaded_bytes + first.size > room_bytes:
                break
            section = self._take_first()
            body = section.body(session.codec)
            if loaded_bytes + section.size > room_bytes:
                self._put_back(section)
                break
            sections.append(section)
            bodies.append(body)
            loaded_bytes += section.size
            room_messages -= section.count
        return sections, bodies
