"""A third kind of link, for tests: a shelf that several instances put parcels on and take them from, as a broker's queue is one.

It is made of the two faces of a link alone, and nothing in the core knows of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from zpipe.core.actions import Action, ToLink
from zpipe.core.downstream.outlet import Outlet
from zpipe.core.ledger import Derivation
from zpipe.core.upstream.credit import Grant
from zpipe.core.upstream.incoming_link import Arrival
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Producer
from zpipe.core.work.task import Chunk
from zpipe.testing.simulated_plugin import SECTION_MESSAGES, Heard, SimulatedLinks

NEVER = float("inf")
TRIP_S = 0.0005
EXPIRES_S = 0.05
"""A request that nothing has come for is over after so long."""


@dataclass
class Parcel:
    """What lies on the shelf: a section, and who answers for it until it is finished."""

    producer: Producer
    body: bytes
    count: int
    first: int
    attempt: int = 1


class Shelf:
    """Between two stages. `room`: so many parcels it takes; `producers` are all that there are to be, by their numbers.

    most  parcels that ever lay there
    """

    def __init__(self, stage: str, consumer: str, producers: int = 1, room: int = 8) -> None:
        self.stage = stage
        self.consumer = consumer
        self.room = room
        self.most = 0
        self.parcels: deque[Parcel] = deque()
        self.taken: dict[int, dict[int, Parcel]] = {}
        self.ended: dict[int, bool] = dict.fromkeys(range(1, producers + 1), False)
        self.stopped: dict[int, bool] = dict(self.ended)
        self._lives = 0

    def producer(self, instance: int, heard: Heard) -> SimulatedLinks:
        """The links of an instance that puts."""
        self._lives += 1
        self.ended[instance] = self.stopped[instance] = False
        link = ShelfOutlet(self, Producer(self.stage, "", instance, f"life {self._lives}"))
        shell = ProducerShell(self, link, heard)
        return SimulatedLinks(outgoing=[link], perform=lambda name, what: shell.perform(what))

    def consumer_of(self, instance: int, heard: Heard) -> SimulatedLinks:
        """The links of an instance that takes. What an earlier life of it held goes back."""
        self.give_back(instance)
        link = ShelfInlet(self.stage)
        shell = ConsumerShell(self, instance, link, heard)
        return SimulatedLinks(incoming=[link], perform=lambda name, what: shell.perform(what))

    def give_back(self, instance: int) -> None:
        for parcel in reversed(self.taken.pop(instance, {}).values()):
            parcel.attempt += 1
            self.parcels.appendleft(parcel)

    @property
    def empty(self) -> bool:
        return not self.parcels and not any(self.taken.values())


# ---- the sending side


class ShelfOutlet:
    """An `OutgoingLink`. What was put on the shelf is settled: the shelf answers for it."""

    waiting = False
    room = 1 << 62
    awaits_acks = False
    send_at = NEVER
    drained = True
    stop_seen = lacks_consumers = False
    outlets: tuple[Outlet, ...] = ()

    def __init__(self, shelf: Shelf, producer: Producer) -> None:
        self.name = ""
        self.consumer = shelf.consumer
        self.end_acked = False
        self.produced = self.acked = 0
        self.unsent_messages = self.unsent_bytes = self.in_flight_messages = self.in_flight_bytes = 0
        self.me = producer
        self._unsent: deque[Section] = deque()
        self._flying: dict[int, Section] = {}
        self._said_end = False

    @property
    def held_messages(self) -> int:
        return self.unsent_messages + self.in_flight_messages

    @property
    def held_bytes(self) -> int:
        return self.unsent_bytes + self.in_flight_bytes

    def offer(self, chunk: Chunk, derivation: Derivation) -> None:
        derivation.expect(chunk.messages, chunk.owners)
        section = Section(chunk.body, chunk.messages, self.produced + 1, 1, derivation, chunk.owners)
        self._unsent.append(section)
        self.produced += section.count
        self.unsent_messages += section.count
        self.unsent_bytes += section.size
        self._said_end = self.end_acked = False

    def sendable(self, now: float) -> Iterable[Action]:
        while self._unsent:
            section = self._unsent.popleft()
            self._flying[section.first] = section
            self.unsent_messages -= section.count
            self.unsent_bytes -= section.size
            self.in_flight_messages += section.count
            self.in_flight_bytes += section.size
            yield ToLink("shelf", Parcel(self.me, section.body(), section.count, section.first))

    def settled(self, first: int) -> Iterable[Action]:
        section = self._flying.pop(first)
        self.in_flight_messages -= section.count
        self.in_flight_bytes -= section.size
        self.acked += section.count
        section.settle()
        return ()

    def ends(self, now: float) -> Iterable[Action]:
        if not self._said_end:
            self._said_end = True
            yield ToLink("shelf", "end")

    def note_end_acked(self) -> None:
        self.end_acked = True

    def end_taken(self) -> Iterable[Action]:
        self.end_acked = self._said_end
        return ()

    def leave_stored(self) -> None:
        pass

    def stopped(self, ended: bool) -> Iterable[Action]:
        return [ToLink("shelf", "stop" if ended else "leave")]

    @property
    def all_ended(self) -> bool:
        return self.end_acked

    def figures(self, now: float) -> dict[str, Any]:
        return {
            "outlet": self.name,
            "to": self.consumer,
            "produced": self.produced,
            "acked": self.acked,
            "in_flight": self.in_flight_messages,
            "unsent": self.unsent_messages,
            "consumers": [],
        }

    def off(self) -> int:
        return self.produced - self.acked - self.in_flight_messages - self.unsent_messages


class ProducerShell:
    """Puts what is asked of it, in order, as the shelf has room."""

    def __init__(self, shelf: Shelf, link: ShelfOutlet, heard: Heard) -> None:
        self._shelf = shelf
        self._link = link
        self._heard = heard
        self._asked: deque[Any] = deque()

    def perform(self, what: Any) -> None:
        self._asked.append(what)
        if len(self._asked) == 1:
            self._heard(TRIP_S, self._put)

    def _put(self) -> Iterable[Action]:
        shelf, me = self._shelf, self._link.me.instance
        while self._asked:
            match self._asked[0]:
                case "end":
                    shelf.ended[me] = True
                    self._link.end_taken()
                case "stop" | "leave":
                    shelf.stopped[me] = shelf.ended[me] = self._asked[0] == "stop"
                case parcel:
                    if len(shelf.parcels) >= shelf.room:
                        self._heard(10 * TRIP_S, self._put)
                        return ()
                    shelf.ended[me] = False
                    shelf.parcels.append(parcel)
                    shelf.most = max(shelf.most, len(shelf.parcels))
                    self._link.settled(parcel.first)
            self._asked.popleft()
        return ()


# ---- the receiving side


class ShelfInlet:
    """An `IncomingLink`. It asks for one parcel at a time, and for none before the inlet has room for a whole one."""

    outlet = ""
    awaits_acks = False

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.messages, self.bytes = Grant(), Grant()
        self.turn = 0
        self.ended = self.stopped = False
        self._leaving = False
        self._asked = 0
        self._number = 0
        self._came: list[Arrival] = []
        self._held: dict[int, int] = {}
        self._returned: set[int] = set()
        self._done: list[ToLink] = []
        self._untold = 0
        self._received = 0
        self._need()

    def _need(self) -> None:
        self.messages.need = SECTION_MESSAGES
        self.bytes.need = 1

    # -- from its shell

    def came(self, token: int, parcel: Parcel) -> Iterable[Action]:
        section = Section(parcel.body, parcel.count, parcel.first, parcel.attempt)
        self._came.append(Arrival(parcel.producer, [section], token))
        self._held[token] = parcel.count
        self._received += parcel.count
        return self.answered()

    def answered(self) -> Iterable[Action]:
        """The request is over, whether or not anything has come for it."""
        self._asked = 0
        for grant in (self.messages, self.bytes):
            grant.confirm(self._number, grant.received)
        return ()

    def told(self) -> Iterable[Action]:
        self._untold -= 1
        return ()

    def closed(self, ended: bool, stopped: bool) -> Iterable[Action]:
        self.ended, self.stopped = ended, stopped
        return ()

    # -- from the core

    def arrived(self) -> list[Arrival]:
        came, self._came = self._came, []
        return came

    def finished(self, token: int) -> None:
        del self._held[token]
        what = "back" if token in self._returned else "ack"
        self._done.append(ToLink("shelf", (what, token)))
        self._untold += 1

    def returned(self, token: int, start: int, stop: int) -> None:
        self._returned.add(token)

    def leave(self) -> None:
        self._leaving = True

    def tell(self, now: float) -> Iterable[Action]:
        done, self._done = self._done, []
        yield from done
        if self._leaving or self._asked:
            return
        self._need()
        if self.messages.room >= SECTION_MESSAGES and self.bytes.room >= 1:
            self._asked = 1
            self._number += 1
            self.messages.issue(self._number)
            self.bytes.issue(self._number)
            yield ToLink("shelf", "take")

    def next_at(self) -> float:
        return NEVER

    @property
    def unfinished(self) -> bool:
        return bool(self._held)

    @property
    def all_confirmed(self) -> bool:
        return not self._done and not self._untold

    def waiting_for(self) -> list[str]:
        return [] if self.stopped else [self.stage]

    def figures(self) -> list[dict[str, Any]]:
        unacked = sum(self._held.values())
        return [{"instance": 1, "incarnation": "shelf", "received": self._received, "unacked": unacked}]


class ConsumerShell:
    """Takes one parcel for each request, or says after a while that there was none."""

    def __init__(self, shelf: Shelf, instance: int, link: ShelfInlet, heard: Heard) -> None:
        self._shelf = shelf
        self._me = instance
        self._link = link
        self._heard = heard
        self._tokens = 0
        self._watch()

    def _watch(self) -> None:
        """Looks at whether the stream has ended, as long as it lives."""

        def look() -> Iterable[Action]:
            shelf = self._shelf
            ended = all(shelf.ended.values()) and not shelf.parcels
            self._watch()
            return self._link.closed(ended, ended and all(shelf.stopped.values()) and shelf.empty)

        self._heard(EXPIRES_S, look)

    def perform(self, what: Any) -> None:
        match what:
            case "take":
                self._heard(TRIP_S, partial(self._take, 0.0))
            case ("ack", token):
                self._heard(TRIP_S, partial(self._let_go, token, back=False))
            case ("back", token):
                self._heard(TRIP_S, partial(self._let_go, token, back=True))

    def _take(self, waited_s: float) -> Iterable[Action]:
        shelf = self._shelf
        if shelf.parcels:
            self._tokens += 1
            parcel = shelf.parcels.popleft()
            shelf.taken.setdefault(self._me, {})[self._tokens] = parcel
            return self._link.came(self._tokens, parcel)
        if waited_s >= EXPIRES_S:
            return self._link.answered()
        self._heard(10 * TRIP_S, partial(self._take, waited_s + 10 * TRIP_S))
        return ()

    def _let_go(self, token: int, back: bool) -> Iterable[Action]:
        parcel = self._shelf.taken[self._me].pop(token)
        if back:
            self._shelf.parcels.appendleft(parcel)
        return self._link.told()
