"""A session as its producer sees it: one downstream incarnation, its credit, and the parcels in flight to it.

May live here: the state of one session and reading a consumer's statements into it. Which session to send to, and what
becomes of parcels, is the outlet's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zpipe.core.policy import Codec
from zpipe.core.ranges import RangeSet
from zpipe.core.wire import frames
from zpipe.core.wire.section import Section


class Flight:
    """A parcel that was sent and is not acked. `sections` are (offset in the parcel, section); none: an end. `count` messages
    were sent in it, of which some may be acked or handed back by now."""

    __slots__ = ("_returned", "count", "end", "sections", "sequence")

    def __init__(self, sequence: int, sections: list[Section]) -> None:
        self.sequence = sequence
        self.end = not sections
        self._returned: RangeSet | None = None
        self.sections: list[tuple[int, Section]] = []
        offset = 0
        for section in sections:
            self.sections.append((offset, section))
            offset += section.count
        self.count = offset

    def take_back(self, start: int, stop: int) -> bool:
        """Messages [start, stop) were handed back. False: some of them were before, so this statement repeats it."""
        if self._returned is None:
            self._returned = RangeSet()
        elif self._returned.overlaps(start, stop):
            return False
        self._returned.add(start, stop)
        return True


class OutletSession:
    """One downstream incarnation.

    route       the connection it came by: its statements are taken from there only, and answers go there
    ready       its PUSH is connected
    stated      it has stated its credit at least once
    busy_until  when it will have done what was sent, by the rate and the progress that it has stated
    heard_at    when it last said anything
    progress_at when it last received what was sent, or had received everything
    codec       of the sections that it is sent
    """

    def __init__(self, id: bytes, hello: frames.Hello, route: bytes, now: float, codec: Codec) -> None:
        self.id = id
        self.hello = hello
        self.route = route
        self.codec = codec
        self.ready = False
        self.stated = False
        self.heard_at = now
        self.progress_at = now
        self.leaving = False
        self.seen_stopped = False
        self.flights: dict[int, Flight] = {}
        self.sequence = 0
        self.received = 0
        self.floor = 0
        self.sent_messages = 0
        self.sent_bytes = 0
        self.released = 0
        self.limit_messages = 0
        self.limit_bytes = 0
        self.rate = 0.0
        self.busy_until = 0.0
        self.statement_number = 0
        self.need_bytes = 0
        self.end_sequence = 0
        self._said_need = 0

    @property
    def peer(self) -> tuple[str, int]:
        return self.hello.stage, self.hello.instance

    @property
    def name(self) -> str:
        return f"{self.hello.stage}.{self.hello.instance}"

    @property
    def room_messages(self) -> int:
        """How many more messages the consumer takes; 0 while nothing may be sent."""
        if not self.ready or self.leaving:
            return 0
        return self.limit_messages - self.sent_messages

    @property
    def room_bytes(self) -> int:
        """How many more bytes the consumer takes."""
        return self.limit_bytes - self.sent_bytes

    @property
    def window(self) -> int:
        """How much the consumer wants under way."""
        return self.limit_messages - self.released

    @property
    def in_flight_messages(self) -> int:
        """Sent in parcels that are not acked."""
        return sum(section.count for flight in self.flights.values() for _, section in flight.sections)

    def work_s(self, messages: int) -> float:
        """How long it needs for so many messages. One that has not served any yet is taken to be slow."""
        return messages / (self.rate or 1.0)

    def overdue(self, now: float, patience_s: float) -> bool:
        """It should have done everything for longer than `patience_s`, and has not said so."""
        return self.released < self.sent_messages and self.busy_until + patience_s < now

    @property
    def ended(self) -> bool:
        """The end was the last thing sent."""
        return self.end_sequence == self.sequence > 0

    def launch(self, sections: list[Section], now: float) -> Flight:
        """The next parcel (no sections: the end), in flight from now."""
        self.sequence += 1
        flight = Flight(self.sequence, sections)
        self.flights[self.sequence] = flight
        if not sections:
            self.end_sequence = self.sequence
        for section in sections:
            self.sent_bytes += section.size
        self.sent_messages += flight.count
        self.busy_until = max(now, self.busy_until) + self.work_s(flight.count)
        self.need_bytes = self._said_need = 0
        return flight

    def problem_of(self, statement: frames.Statement) -> str:
        """Why the statement cannot be true, in words; "" if it can. One older than the last is not judged: `read` ignores it."""
        if statement.number <= self.statement_number:
            return ""
        received = statement.received
        if received > self.sequence:
            return f"states parcel {received} as received, of {self.sequence} sent"
        acked = max([statement.floor, *(stop - 1 for _, stop in statement.ranges)])
        if acked > received:
            return f"acks parcel {acked}, of {received} received"
        if statement.released > self.sent_messages:
            return f"states {statement.released} messages as released, of {self.sent_messages} sent"
        for name in ("received", "released", "floor"):
            if (said := getattr(statement, name)) < (before := getattr(self, name)):
                return f"goes back with `{name}` from {before} to {said}"
        for sequence, start, stop in (*statement.returned, *statement.finished):
            flight = self.flights.get(sequence)
            if sequence > received or start > stop or (flight is not None and stop > flight.count):
                return f"names messages {start} to {stop} of parcel {sequence}, which has none such or was not received"
        return ""

    def read(self, statement: frames.Statement, now: float) -> bool:
        """Takes over the consumer's state. False for one older than the last: they describe state, so the newest counts."""
        self.heard_at = now
        if statement.number <= self.statement_number:
            return False
        if statement.received > self.received or statement.received == self.sequence:
            self.progress_at = now
        self.stated = True
        self.statement_number = statement.number
        self.limit_messages = statement.limit_messages
        self.limit_bytes = statement.limit_bytes
        self.received = statement.received
        self.released = statement.released
        self.floor = statement.floor
        self.rate = statement.rate
        self.busy_until = now + self.work_s(self.sent_messages - self.released)
        self.leaving = statement.leaving
        self.seen_stopped = statement.seen_stopped
        return True

    def pop_acked(self, statement: frames.Statement) -> Iterator[Flight]:
        """Takes out every flight the statement acks."""
        floor, above = statement.floor, RangeSet()
        for start, stop in statement.ranges:
            above.add(start, stop)
        for sequence in [sequence for sequence in self.flights if sequence <= floor or (above and sequence in above)]:
            yield self.flights.pop(sequence)

    def need_unsaid(self) -> bool:
        """The next message needs more room than the consumer gives, and it has not been told."""
        return self.need_bytes > self._said_need

    @property
    def without_credit(self) -> bool:
        """In session, yet without credit for a single message and with nothing under way that would bring some."""
        under_way = self.sent_messages > self.released
        return (
            self.ready
            and self.stated
            and not self.leaving
            and self.limit_messages <= self.sent_messages
            and not under_way
        )

    def figures(self) -> dict[str, Any]:
        """Its row of a snapshot's `consumers`."""
        return {
            "instance": self.hello.instance,
            "incarnation": self.hello.incarnation,
            "credit": max(self.room_messages, 0),
            "sent": self.sent_messages,
            "under_way": self.sent_messages - self.released,
            "in_flight": self.in_flight_messages,
            "unacked_parcels": len(self.flights),
            "rate": self.rate,
        }

    def confirm(self, lowest: int) -> frames.Confirm:
        """What this producer has sent and read."""
        self._said_need = self.need_bytes
        return frames.Confirm(
            self.id,
            self.statement_number,
            self.sequence,
            self.sent_messages,
            self.sent_bytes,
            lowest,
            self.need_bytes,
        )
