"""Everything below this stage: the links out of it, and the bound on what it answers for.

May live here: what concerns all links together, whatever they run over (`outgoing_link`). How one hands its messages on is its
own; what consumers say in sessions of ZeroMQ links is `outlet_sessions`'.
"""

from __future__ import annotations

from collections.abc import Sequence

from zpipe.core.actions import Action
from zpipe.core.downstream.outgoing_link import OutgoingLink
from zpipe.core.ledger import Derivation
from zpipe.core.policy import StagePolicy
from zpipe.core.work.task import Chunk

NEVER = float("inf")


class Downstream:
    """`links` are in the order of the config.

    room          how many more messages may be produced now, by the link with the least room;  full: none
    unsent        messages that wait to be sent, on all links
    waiting       `dispatch` may have something to hand on
    near_bound    half of what may be unacked is reached on some link: from there on `awaits_acks` may change
    """

    def __init__(self, links: Sequence[OutgoingLink], policy: StagePolicy) -> None:
        self.links = links
        self._policy = policy
        self._by_name: dict[str, list[OutgoingLink]] = {}
        for link in links:
            self._by_name.setdefault(link.name, []).append(link)
        self._awaits_acks = False
        self.recount()

    # ---- outputs

    def offer(self, chunks: list[Chunk], derivation: Derivation) -> int:
        """Answers for outputs from now on, once for each link they leave by. Returns how many no stage reads."""
        unrouted = 0
        if not chunks:
            return unrouted
        for chunk in chunks:
            links = self._by_name.get(chunk.outlet)
            if links is None:
                unrouted += chunk.messages
                continue
            for link in links:
                link.offer(chunk, derivation)
        self.recount()
        return unrouted

    def reads(self, outlet: str) -> bool:
        """Whether some stage reads it."""
        return outlet in self._by_name

    def awaits_acks(self) -> bool:
        """Nothing more can be sent until something is acked: consumers should not wait for more to come. That is so from when
        the bound is reached until half of it is free: under full load it is reached again with every ack, and to say so each
        time would wake all consumers."""
        bound, part = self._policy.unacked, 2 if self._awaits_acks else 1
        self._awaits_acks = any(
            o.held_messages * part >= bound.messages or o.held_bytes * part >= bound.bytes or o.awaits_acks
            for o in self.links
        )
        return self._awaits_acks

    def recount(self) -> None:
        """Counts what is asked for several times a turn. Called after each change of what the links hold: by the stage if the
        change does not go through this class."""
        policy, unacked = self._policy.link, self._policy.unacked
        room, unsent, near_bound, waiting = unacked.messages, 0, False, False
        for link in self.links:
            held, held_bytes = link.held_messages, link.held_bytes
            room = min(room, unacked.messages - held, policy.unsent_messages - link.unsent_messages, link.room)
            if held_bytes >= unacked.bytes or link.unsent_bytes >= policy.unsent_bytes:
                room = 0
            near_bound = near_bound or 2 * held >= unacked.messages or 2 * held_bytes >= unacked.bytes
            unsent += link.unsent_messages
            waiting = waiting or link.waiting
        self.room, self.unsent, self.full, self.near_bound = max(room, 0), unsent, room <= 0, near_bound
        self.waiting = waiting or unsent > 0

    @property
    def off(self) -> str:
        """For tests: how what is kept differs from what the links hold; "" if it does not, as it must be."""
        kept = self.room, self.unsent, self.waiting
        self.recount()
        now = self.room, self.unsent, self.waiting
        return "" if kept == now else f"{kept} is kept, not {now}"

    @property
    def in_flight(self) -> int:
        return sum(link.in_flight_messages for link in self.links)

    @property
    def held(self) -> int:
        """Messages that this stage answers for, on all links."""
        return sum(link.held_messages for link in self.links)

    @property
    def acked(self) -> int:
        return sum(link.acked for link in self.links)

    @property
    def drained(self) -> bool:
        """No link keeps anything that a drain has to wait for, though this stage does not answer for it."""
        return all(link.drained for link in self.links)

    @property
    def lacks_consumers(self) -> bool:
        """On some link there is something to deliver, and nobody who takes it."""
        return any(link.lacks_consumers for link in self.links)

    def dispatch(self, now: float) -> list[Action]:
        """Everything that may be handed on now."""
        actions = [
            action for link in self.links if link.unsent_messages or link.waiting for action in link.sendable(now)
        ]
        self.recount()
        return actions

    def next_at(self) -> float:
        """When `dispatch` should be called although nothing happens."""
        at = NEVER
        for link in self.links:
            at = min(at, link.send_at)
        return at

    def say_end(self, now: float) -> list[Action]:
        """Tells every consumer that has not been told since its last parcel."""
        actions = [action for link in self.links for action in link.ends(now)]
        self.recount()
        return actions

    @property
    def ends_acked(self) -> bool:
        """On every link somebody has acked the end, and everybody in session has."""
        return all(link.end_acked for link in self.links) and all(link.all_ended for link in self.links)

    def leave_stored(self) -> None:
        """The stream has ended, and what links have stored is left for the next run."""
        for link in self.links:
            link.leave_stored()

    def stopped(self, ended: bool) -> list[Action]:
        """This instance has stopped, `ended`: at the end of its stream."""
        actions = [action for link in self.links for action in link.stopped(ended)]
        self.recount()
        return actions

    def end_acked_before(self, consumer: str) -> None:
        """That stage has heard the end of this run's stream, though not from this incarnation."""
        for link in self.links:
            if link.consumer == consumer:
                link.note_end_acked()

    @property
    def stop_seen(self) -> bool:
        return all(link.stop_seen for link in self.links)
