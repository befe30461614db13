"""The sender side of a link through a stream: what is unsent, what is published and not acknowledged, and when to try again.

May live here: the sections this stage answers for on one such link. It knows no consumer: a parcel that the cluster has
acknowledged is the cluster's, and settled upstream. Who gets it is decided by the stream's consumers.

`produced = acked + in_flight + unsent` holds after every call (messages).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from zpipe.core.actions import Action, LogEvent, ToLink
from zpipe.core.downstream.memory_link import NEVER, MemoryLink
from zpipe.core.jetstream import orders, parcel, producers
from zpipe.core.jetstream.events import NOT_YET, Connected, Event, Figures, Lost, NotStored, Stored, Written
from zpipe.core.jetstream.orders import LinkKey
from zpipe.core.jetstream.producers import Standing
from zpipe.core.ledger import Derivation
from zpipe.core.policy import Codec
from zpipe.core.wire.section import Section
from zpipe.core.work.task import Chunk

WINDOW = 16
"""Parcels that may be published and not acknowledged. At three replicas on one machine 16 gave all the throughput there is."""
FIRST_RETRY_S, MAX_RETRY_S = 0.05, 1.0
LOOK_S = 1.0
BACKLOG_PARCELS = 32
LINGER_S = 0.05
"""While so many parcels wait in the stream, nobody gains by a small one at once: it stays small until it is consumed, and costs
its consumer a round trip. So parcels are filled for so long."""
WRITE_S = 1.0
"""An entry that is not known to be written is written again after this."""


class StreamOutput(MemoryLink):
    """A link through a stream. What the stream has is its consumers'.

    shell     the name of what carries its orders out
    messages  of a parcel, at most;  codec: of the sections that the consumers read
    """

    outlets: tuple[()] = ()

    def __init__(
        self, shell: str, link: LinkKey, instance: int, incarnation: str, run: str, messages: int, codec: Codec
    ) -> None:
        _, upstream, name, consumer = link
        super().__init__(name, consumer, next_number=0)
        self.connected = False
        self.trouble = NOT_YET
        self._full = False
        self.shell = shell
        self.key = link
        self._parcel_messages = messages
        self._codec: Codec = codec
        self._entry = f"{producers.key_prefix(upstream, name, consumer)}{instance}"
        self._standing = Standing(incarnation, run, producers.OPEN)
        self._written = b""
        self._write_at = 0.0
        self._flights: dict[int, list[Section]] = {}
        self._number = 0
        self._retry_s = FIRST_RETRY_S
        self._retry_at = 0.0
        self._look_at = 0.0
        self._backlog = 0
        self._linger_until = 0.0

    # ---- what comes from the stage

    def offer(self, chunk: Chunk, derivation: Derivation) -> None:
        """Answers for a section until the stream has it."""
        super().offer(chunk, derivation)
        if self._standing.state == producers.FLUSHED:
            self._set_state(producers.OPEN)

    @property
    def lacks_consumers(self) -> bool:
        """A cluster that cannot be reached, or takes nothing, is nothing to wait for."""
        return bool(self.held_messages) and bool(self.trouble)

    def figures(self, now: float) -> dict[str, Any]:
        """Its row of a snapshot, without `consumers`: whoever takes from the stream is not known here."""
        jetstream = {"connected": self.connected, "trouble": self.trouble, "parcels_in_flight": len(self._flights)}
        return super().figures(now) | {"jetstream": jetstream}

    # ---- sending

    def sendable(self, now: float) -> Iterator[Action]:
        """Publishes what may go now: at once if nothing is under way, else full parcels (Nagle's rule, RFC 896, with the
        stream's acknowledgement in the place of TCP's)."""
        self.send_at = NEVER
        yield from self._write(now)
        if not self.connected:
            return
        if now < self._retry_at:
            self.send_at = self._retry_at
            return
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            yield ToLink(self.shell, orders.Look(self.key, 0))
        while self._unsent and len(self._flights) < WINDOW and (self._worth_sending or self._may_be_small(now)):
            sections = self._load()
            self._linger_until = 0.0
            self._number += 1
            self._flights[self._number] = sections
            messages = sum(section.count for section in sections)
            self.in_flight_messages += messages
            self.in_flight_bytes += sum(section.size for section in sections)
            order = orders.Publish(self.key, self._number, parcel.join(sections), messages)
            yield ToLink(self.shell, order)

    @property
    def _worth_sending(self) -> bool:
        return self.unsent_messages >= self._parcel_messages or self.unsent_bytes >= parcel.BODY_BYTES

    def _may_be_small(self, now: float) -> bool:
        """A parcel may go that is not full: nothing is under way, and the consumers have nothing better to do."""
        if self._flights:
            return False
        if self._backlog <= BACKLOG_PARCELS:
            return True
        self._linger_until = self._linger_until or now + LINGER_S
        self.send_at = min(self.send_at, self._linger_until)
        return now >= self._linger_until

    def _load(self) -> list[Section]:
        """Takes the sections of the next parcel."""
        room_messages, room_bytes = self._parcel_messages, parcel.BODY_BYTES
        sections: list[Section] = []
        while self._unsent and room_messages > 0 and len(sections) < parcel.MOST_SECTIONS:
            section = self._take_first()
            if section.count > room_messages:
                if sections:  # cutting decodes and encodes: the rest may travel whole in the next parcel
                    self._put_back(section)
                    break
                section = self._cut(section, room_messages)
            section.body(self._codec)
            while section.size > room_bytes and not sections and section.count > 1:
                section = self._cut(section, section.count // 2)
                section.body(self._codec)
            if section.size > room_bytes and sections:
                self._put_back(section)
                break
            sections.append(section)
            room_messages -= section.count
            room_bytes -= section.size
        return sections

    def _cut(self, section: Section, count: int) -> Section:
        """The first so many messages of it; the rest is unsent again."""
        self._put_back(section.cut(count, section.count))
        return section.cut(0, count)

    # ---- what the cluster says

    def heard(self, event: Event, now: float) -> Iterable[Action]:
        """Takes in an event from its shell."""
        match event:
            case Connected():
                self.connected, self._retry_at, self._retry_s = True, 0.0, FIRST_RETRY_S
                self._written = b""
                return self._tell_trouble("")
            case Lost():
                self.connected = False
                for number in sorted(self._flights, reverse=True):
                    self._take_back(number)
                return self._tell_trouble(event.reason)
            case Stored():
                self._settle(event.number)
                self._retry_s = FIRST_RETRY_S
                return self._tell_trouble("")
            case NotStored():
                self._full = event.full
                self._take_back(event.number, sent=not event.full)
                self._retry_at = now + self._retry_s
                self._retry_s = min(2 * self._retry_s, MAX_RETRY_S)
                return self._tell_trouble(f"the stream is full: {event.reason}" if event.full else event.reason)
            case Figures():
                self._backlog = event.parcels
            case Written() if event.key == self._entry:
                self._written = event.value
                self.end_acked = self.end_acked or (self._is_written and self._standing.state != producers.OPEN)
        self._count_waiting()
        return ()

    def _settle(self, number: int) -> None:
        for section in self._flights.pop(number, ()):
            self._remove_in_flight(section)
            self.acked += section.count
            section.settle()

    def _take_back(self, number: int, sent: bool = True) -> None:
        """A parcel is unsent again, ahead of the rest and in order. `sent`: it may be in the stream all the same, so it is sent
        once more, attempt + 1."""
        for section in reversed(self._flights.pop(number, ())):
            self._remove_in_flight(section)
            if sent:
                section.attempt += 1
                self.redelivered += section.count
            self._put_back(section)

    @property
    def waits_for_cluster(self) -> bool:
        """A stream that is full waits for its consumers."""
        return self.trouble not in ("", NOT_YET) and not (self.connected and self._full)

    def _tell_trouble(self, trouble: str) -> list[Action]:
        self._count_waiting()
        before, self.trouble = self.trouble, trouble
        if trouble == before:
            return []
        fields = {"to": self.consumer, "outlet": self.name or None, "unsent": self.unsent_messages}
        if not trouble:
            return [LogEvent("jetstream.works", fields, warning=False, repeats=True)]
        return [LogEvent("jetstream.trouble", {**fields, "reason": trouble}, alike=trouble)]

    # ---- the end

    def _set_state(self, state: str) -> None:
        self._standing = self._standing._replace(state=state)
        self._write_at = 0.0
        self._count_waiting()

    @property
    def _is_written(self) -> bool:
        return self._written == self._standing.encode()

    def _count_waiting(self) -> None:
        self.waiting = self.connected and not self._is_written

    def _write(self, now: float) -> Iterator[Action]:
        """Has the bucket say where this instance stands."""
        if not self.connected or self._is_written:
            return
        if now >= self._write_at:
            self._write_at = now + WRITE_S
            yield ToLink(self.shell, orders.Write(self._entry, self._standing.encode()))
        self.send_at = min(self.send_at, self._write_at)

    def ends(self, now: float) -> Iterable[Action]:
        """Nothing is unsent; the end is said once nothing is under way either."""
        if not self._flights and self._standing.state == producers.OPEN:
            self._set_state(producers.FLUSHED)
        return self._write(now)

    def stopped(self, ended: bool) -> Iterable[Action]:
        """This instance has stopped (`ended`: at the end of its stream), which the bucket is to say."""
        self._set_state(producers.STOPPED if ended else producers.LEFT)
        return self._write(0.0)

    @property
    def all_ended(self) -> bool:
        return self._is_written and self._standing.state != producers.OPEN

    @property
    def stop_seen(self) -> bool:
        return self._is_written and self._standing.state in (producers.STOPPED, producers.LEFT)
