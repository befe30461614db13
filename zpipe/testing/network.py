"""The network of a simulation: what becomes of a frame on its way. May live here: faults, order and connections; it reads no
frame.

Control frames may be lost, doubled, late and out of order. Data frames keep their order and are lost only with their
connection: then of those under way a first part still arrives, as with a socket that is closed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from zpipe.testing.clock import Clock

LATENCY_S = 0.0001
"""Of a frame between two processes of one machine."""


@dataclass(frozen=True)
class Faults:
    """Chances for each control frame, and what else goes wrong by itself.

    delay_s    frames are late by up to this;  reorder: so that later ones overtake
    connect_s  a neighbour is found and connected up to this late
    disk       the chance that a dead letter cannot be written (it is tried again)
    """

    drop: float = 0.0
    duplicate: float = 0.0
    delay_s: float = 0.0
    reorder: bool = False
    connect_s: float = 0.0
    disk: float = 0.0

    @property
    def any(self) -> bool:
        return self != Faults()


class Connection:
    """One PUSH of `producer` and what it sent. `kept`: once it is cut, how many of its frames arrive in all."""

    def __init__(self, producer: str, address: str) -> None:
        self.producer = producer
        self.address = address
        self.sent = 0
        self.arrived = 0
        self.kept: int | None = None


class Network:
    """`connections` are the open ones, by the name of their session. A *line* is a consumer's connection to the feedback of a
    producer, both named by their incarnations; the producer knows it by its route, another one each time it is made."""

    def __init__(self, clock: Clock, chance: random.Random, faults: Faults) -> None:
        self.faults = faults
        self.connections: dict[bytes, Connection] = {}
        self._routes: dict[tuple[str, str], bytes] = {}
        self._made = count(1)
        self._clock = clock
        self._random = chance
        self._last: dict[tuple[str, ...], float] = {}
        self._stalls: list[tuple[frozenset[str], float]] = []

    # ---- control

    def control(self, line: tuple[str, ...], arrive: Callable[[], None]) -> None:
        """Sends a frame that may be lost or doubled. Frames of one `line` keep their order unless faults say otherwise."""
        faults, chance = self.faults, self._random
        if chance.random() < faults.drop:
            return
        for _ in range(2 if chance.random() < faults.duplicate else 1):
            self._send(line, faults.reorder, arrive, line[1:])

    def spoil(self, faults: Faults) -> None:
        """What goes wrong from now on."""
        self.faults = faults

    def stall(self, one: str, other: str, until: float) -> None:
        """Nothing passes between the instances of two stages before `until`. Then all of it arrives."""
        self._stalls.append((frozenset((one, other)), until))

    def _stalled_until(self, ends: set[str]) -> float:
        return max((until for stages, until in self._stalls if stages == ends), default=0.0)

    def _send(self, line: tuple[str, ...], reorder: bool, arrive: Callable[[], None], ends: tuple[str, ...]) -> None:
        when = self._clock.now + LATENCY_S + self._random.random() * self.faults.delay_s
        if self._stalls:
            when = max(when, self._stalled_until({_stage_of(end) for end in ends}))
        if not reorder:
            when = max(when, self._last.get(line, 0.0))
            self._last[line] = when
        self._clock.at(when, arrive)

    # ---- lines

    def make_line(self, consumer: str, producer: str) -> None:
        self._routes[consumer, producer] = f"line {next(self._made)}".encode()

    def break_line(self, consumer: str, producer: str) -> None:
        self._routes.pop((consumer, producer), None)

    def route(self, consumer: str, producer: str) -> bytes | None:
        """None: there is no line, so nothing can be sent on it."""
        return self._routes.get((consumer, producer))

    def consumer(self, route: bytes) -> str | None:
        """Who hears what is sent by the route. None: the line is gone, or it was never one of this pipeline."""
        return next((consumer for (consumer, _), known in self._routes.items() if known == route), None)

    # ---- data

    def connect(self, session: bytes, producer: str, address: str) -> None:
        self.connections[session] = Connection(producer, address)

    def sessions(self, producer: str) -> list[bytes]:
        """Those open connections that it has made."""
        return [session for session, connection in self.connections.items() if connection.producer == producer]

    def cut(self, session: bytes) -> None:
        """The connection is closed or lost, at either end."""
        connection = self.connections.pop(session, None)
        if connection is not None:
            connection.kept = self._random.randint(connection.arrived, connection.sent)

    def data(self, session: bytes, arrive: Callable[[str], None]) -> None:
        """Sends a parcel; `arrive` hears the address it was sent to."""
        connection = self.connections.get(session)
        if connection is None:
            return
        connection.sent += 1
        number = connection.sent

        def arrived() -> None:
            if connection.kept is None or number <= connection.kept:
                connection.arrived = number
                arrive(connection.address)

        consumer = connection.address.rpartition("/inbox-")[2]
        self._send(("data", session.hex()), False, arrived, (connection.producer, consumer))


def _stage_of(incarnation: str) -> str:
    """Incarnations are called STAGE.INSTANCE-NUMBER here."""
    return incarnation.rpartition(".")[0]
