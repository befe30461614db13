"""The sender side of one link: what is unsent, what is in flight to whom, and whom to send to next.

May live here: the sections this stage answers for on one link, and where they are. It knows no plugin, no input and no
lifecycle; it hears of acks and tells each section's derivation.

`produced = acked + in_flight + unsent` holds after every call (messages).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from zpipe.core.downstream.outlet_session import Flight, OutletSession
from zpipe.core.downstream.suspects import Suspects
from zpipe.core.downstream.unsent_ages import Ages
from zpipe.core.ledger import Derivation
from zpipe.core.policy import LinkPolicy
from zpipe.core.wire import frames
from zpipe.core.wire.section import Section
from zpipe.core.work.task import Chunk

SOON_S = 0.001
"""A consumer with less work than this left is about to run dry: some round trips over ipc."""


class Outlet:
    """One link, from the outlet `name` of this stage ("" is the default one) to the stage `consumer`.

    end_acked  some consumer has acked the end of the stream
    """

    def __init__(self, name: str, consumer: str, policy: LinkPolicy) -> None:
        self.name = name
        self.consumer = consumer
        self.sessions: dict[bytes, OutletSession] = {}
        self.unsent_messages = 0
        self.unsent_bytes = 0
        self.in_flight_messages = 0
        self.in_flight_bytes = 0
        self.produced = 0
        self.acked = 0
        self.redelivered = 0
        self.returned = 0
        self.end_acked = False
        self._policy = policy
        self._unsent: deque[Section] = deque()
        self._suspects = Suspects()
        self._ages = Ages()
        self._next_number = 1

    # ---- what comes from the stage

    def offer(self, chunk: Chunk, derivation: Derivation) -> None:
        """Answers for a section from now until it is acked."""
        count = chunk.messages
        derivation.expect(count, chunk.owners)
        section = Section(chunk.body, count, self._next_number, 1, derivation, chunk.owners)
        self._next_number += count
        self.produced += count
        self._unsent.append(section)
        self.unsent_messages += count
        self.unsent_bytes += section.size

    @property
    def held_messages(self) -> int:
        return self.unsent_messages + self.in_flight_messages

    @property
    def held_bytes(self) -> int:
        return self.unsent_bytes + self.in_flight_bytes

    @property
    def lowest(self) -> int:
        """No message numbered below it will be sent again."""
        lowest = min((s.first for s in self._unsent), default=self._next_number)
        for session in self.sessions.values():
            for flight in session.flights.values():
                for _, section in flight.sections:
                    lowest = min(lowest, section.first)
        return lowest

    def unsent_for_s(self, now: float) -> float:
        """How long the oldest unsent message has been held, to within the time between two calls."""
        self._ages.mark(now, self._next_number)
        return self._ages.age(now, self._unsent[0].first if self._unsent else self._next_number)

    def off(self) -> int:
        """0 when the link's identity holds."""
        return self.produced - self.acked - self.in_flight_messages - self.unsent_messages

    # ---- sessions

    def close(self, session: OutletSession) -> None:
        """The session is over: what was in flight is unsent again, ahead of the rest and in order, attempt + 1."""
        del self.sessions[session.id]
        for flight in reversed(session.flights.values()):
            for _, section in reversed(flight.sections):
                section.attempt += 1
                self.redelivered += section.count
                self._remove_in_flight(section)
                self._put_back(section)
        session.flights.clear()
        self._isolate()

    def suspect(self, rows: list[list[int]]) -> None:
        """A consumer died while the plugin had these messages: [start, stop, alone]. They go to consumers one by one, and how
        often that happened is kept with them, so that whoever gets them next runs them alone, or gives them up."""
        self._suspects.accuse(rows, self.lowest, self._next_number)
        self._isolate()

    def _isolate(self) -> None:
        if self._suspects:
            self._suspects.discard_below(self.lowest)
            self._unsent = deque(piece for section in self._unsent for piece in self._suspects.isolate(section))

    def _remove_in_flight(self, section: Section) -> None:
        self.in_flight_messages -= section.count
        self.in_flight_bytes -= section.size

    def _put_back(self, section: Section) -> None:
        self._unsent.appendleft(section)
        self.unsent_messages += section.count
        self.unsent_bytes += section.size

    # ---- what comes from consumers

    def read_statement(self, session: OutletSession, statement: frames.Statement, now: float) -> None:
        """Applies a consumer's state, which can be true (`problem_of`): returns first, since a parcel with returned messages
        may be acked by the same."""
        if not session.read(statement, now):
            return
        for sequence, start, stop in reversed(statement.returned):  # each goes ahead of what is unsent
            flight = session.flights.get(sequence)
            if flight is not None and not flight.returned.overlaps(start, stop):
                self._take_back(flight, start, stop)
        for sequence, start, stop in statement.finished:
            flight = session.flights.get(sequence)
            if flight is not None:
                for section in self._take_out(flight, start, stop):
                    self._ack(section)
        for flight in session.pop_acked(statement):
            self.end_acked |= flight.end
            for _, section in flight.sections:
                self._remove_in_flight(section)
                self._ack(section)

    def _ack(self, section: Section) -> None:
        self.acked += section.count
        section.settle()

    def _take_back(self, flight: Flight, start: int, stop: int) -> None:
        """Messages [start, stop) of the parcel were not started there: they may go to a sibling."""
        flight.returned.add(start, stop)
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

    def sendable(self) -> Iterator[tuple[OutletSession, bytes, bytes]]:
        """(session, header, body) of each parcel that credit allows now; in flight from the moment it is yielded."""
        while self._unsent:
            session = self._choose()
            if session is None:
                return
            sections = self._load(session)
            if not sections:  # encoded, the first was over its estimated share: choose again by its true size
                continue
            flight = session.launch(sections)
            for section in sections:
                self.in_flight_messages += section.count
                self.in_flight_bytes += section.size
            yield session, flight.header(session.id), b"".join([section.body() for section in sections])
        for session in self.sessions.values():  # what one needed room for went to another
            session.need_bytes = 0

    def ends(self) -> Iterator[tuple[OutletSession, bytes, bytes]]:
        """The end of the stream to each session that has not been told since its last parcel. Nothing may be unsent."""
        for session in self.sessions.values():
            if session.ready and session.stated and not session.ended:
                yield session, session.launch([]).header(session.id), b""

    def _choose(self) -> OutletSession | None:
        """The consumer that would come to a new message first. None: nobody has room."""
        open_sessions = [session for session in self.sessions.values() if session.room_messages > 0]
        if len(open_sessions) > 1:
            open_sessions.sort(key=lambda session: session.wait_s)
        for session in open_sessions:
            if self._fits(session):
                return session if self._worth_sending(session) else None
        for session in self.sessions.values():
            if session.without_credit:
                session.need_bytes = self._unsent[0].bytes_between(0, 1)  # of a section, one message
        return None

    def _worth_sending(self, session: OutletSession) -> bool:
        """Whether to send to it now: at once if it is about to run dry or has everything that was sent, else when a parcel
        worth its overhead is there (Nagle's rule, RFC 896, with the statement in the place of TCP's ack).

        Without this, parcels under load shrink to what one turn of the loop produced: 40 messages in place of 300. A
        consumer states what it received within `ack_delay_s`, so nothing waits longer, whatever the consumer does with it.
        """
        if session.wait_s < SOON_S or session.received == session.sequence:
            return True
        worth = min(self._policy.parcel_messages, session.window // 4)
        return self.unsent_messages >= worth and session.room_messages >= max(worth, self._unsent[0].count)

    def _fits(self, session: OutletSession) -> bool:
        """Whether the first unsent message fits the byte credit. If not, the session is told how much it needs."""
        while (first := self._unsent[0]).size > session.room_bytes:
            if first.count == 1:
                session.need_bytes = self._weigh_first(session)
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

    def _take_first(self) -> Section:
        section = self._unsent.popleft()
        self.unsent_messages -= section.count
        self.unsent_bytes -= section.size
        return section

    def _load(self, session: OutletSession) -> list[Section]:
        """Takes the sections of the next parcel: within the credit, the parcel limits, and a fair share of a short backlog.

        Without the share, one parcel would give the whole backlog to the first of several idle consumers.
        """
        open_sessions = sum(s.room_messages > 0 for s in self.sessions.values())
        share = -(-self.unsent_messages // open_sessions)
        room_messages = min(session.room_messages, self._policy.parcel_messages, share)
        room_bytes = session.room_bytes
        sections: list[Section] = []
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
            section.body(session.codec)
            if loaded_bytes + section.size > room_bytes:
                self._put_back(section)
                break
            sections.append(section)
            loaded_bytes += section.size
            room_messages -= section.count
        return sections
