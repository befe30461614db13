"""The face of a link at its receiving side: what a stage asks of whatever brings the messages of one input.

May live here: the contract alone, and the delivery that goes with it. Sessions with upstream instances (ZeroMQ) are one
implementation (`Upstreams` and `InletSession`); another needs no change of the core: the shell makes it and hands it to the
stage, which knows it by this face.

room      how much may come: two grants, which the inlet raises and lowers like those of a session
arrived   what has come, each message once: from there on it is queued here
finished  everything derived from it is finished, so it may be acked
returned  messages go back unstarted, since this instance leaves

All calls come from the thread that has the loop, and none blocks. What touches the world is the link's shell: `tell` may give
`ToLink` actions with whatever the shell understands. It answers on the loop's thread by a `LinkHeard` event, which
calls its link's `heard`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from zpipe.core.actions import Action
from zpipe.core.upstream.credit import Grant
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Producer


class Arrival(NamedTuple):
    """Messages that came together. `token`: what the link knows them by."""

    producer: Producer
    sections: list[Section]
    token: Any


class IncomingLink(Protocol):
    """One input: the outlet `outlet` of the stage `stage`.

    messages, bytes  its room. `room` is how much more may come, of all that may be under way (`limit`, absolute). The inlet
           alone raises and lowers `limit`; the link calls `issue(number)` when it has told the far side of it, and
           `confirm(number, received)` when nothing beyond that can come any more. It may set `need`, the room without which
           nothing can come (a whole parcel, say), and does so anew after each arrival
    turn   the inlet's: it favours in turn those that cannot go on
    """

    stage: str
    outlet: str
    messages: Grant
    bytes: Grant
    turn: int

    def arrived(self) -> list[Arrival]:
        """What has come since the last call, which follows each `LinkHeard` event. It is within the room; the inlet counts it
        as received. What comes again while its first copy is held here is the link's to recognize, and no arrival."""

    def finished(self, token: Any) -> None:
        """Each message of that arrival is finished, with all that was derived from it, or was returned. Called once."""

    def returned(self, token: Any, start: int, stop: int) -> None:
        """Messages [start, stop) of that arrival were not started, since this instance leaves: whoever is next must get these.
        They count as finished from here on."""

    def tell(self, now: float) -> Iterable[Action]:
        """What the far side is to be told: room, acks. Called at the end of each turn that looks at everything, as one does in
        which something of the link has finished, or was released."""

    def next_at(self) -> float:
        """When `tell` should be called although nothing happens; infinity: never."""

    def leave(self) -> None:
        """This instance goes: nothing more is to come. What is queued is `returned` next."""

    @property
    def unfinished(self) -> bool:
        """Something that arrived is not finished."""

    @property
    def all_confirmed(self) -> bool:
        """The far side has read all that there is to say to it."""

    @property
    def awaits_acks(self) -> bool:
        """A producer can send nothing more until something is acked: what lies in a partial batch should not wait."""

    @property
    def ended(self) -> bool:
        """The stream has ended: every producer has said so, and all that came before that has arrived."""

    @property
    def stopped(self) -> bool:
        """Every producer has stopped, so nothing can come any more."""

    def waiting_for(self) -> list[str]:
        """Names of producers whose end or stop is still to come, for people; the stage when none is known."""

    def figures(self) -> list[dict[str, Any]]:
        """A row of a snapshot's `sessions` for each producer: instance, incarnation, received, unacked (PROTOCOL.md 5.9)."""


class LinkDelivery(Delivery):
    """What arrived by a link."""

    __slots__ = ("link", "token")

    def __init__(self, link: IncomingLink, arrival: Arrival, on_finished: Callable[[Delivery], None]) -> None:
        super().__init__(arrival.sections, on_finished, arrival.producer, arrival.producer.input)
        self.link = link
        self.token = arrival.token
