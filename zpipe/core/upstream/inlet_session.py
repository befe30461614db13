"""A session as its consumer sees it: one upstream incarnation, the credit given, and what of its parcels is finished.

May live here: the state of one session, its parcels, and writing its statements. Sharing the bound and keeping the queue
is the inlet's.
"""

from __future__ import annotations

from collections.abc import Callable

from zpipe.core.ranges import RangeSet
from zpipe.core.upstream.credit import Grant
from zpipe.core.wire import frames
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Producer
from zpipe.errors import PeerError

NEVER = float("inf")
PARTS_S = 0.2
"""A parcel that is not finished after this long is acked in parts, no more often than this. Sooner, parts would be told of
parcels that are about to be finished as a whole; later, one message that is tried again would hold up its producer."""
MAX_PARTS = 1024
"""Rows in a statement: a quarter of what a frame may have."""


class ParcelDelivery(Delivery):
    """A parcel that arrived in a session, to which its acks go.

    acked_parts  offsets of messages that the producer was told are finished, before the parcel as a whole is; None: of none
    """

    __slots__ = ("acked_parts", "arrived_at", "sequence", "session")

    def __init__(
        self,
        session: InletSession,
        sequence: int,
        sections: list[Section],
        on_finished: Callable[[Delivery], None],
        now: float,
    ) -> None:
        super().__init__(sections, on_finished, session.producer, session.input)
        self.session = session
        self.sequence = sequence
        self.arrived_at = now
        self.acked_parts: RangeSet | None = None

    def take_parts(self) -> list[tuple[int, int]]:
        """Messages [start, stop) that are finished and not told to the producer yet. From now on they count as told."""
        if self.done is None:
            return []
        acked = self.acked_parts = self.acked_parts or RangeSet()
        parts = list(self.done.minus(acked))
        for start, stop in parts:
            acked.add(start, stop)
        return parts


class InletSession:
    """`due_at`: when the next statement is to go out at the latest; `parts_at`: when to look for parcels finished in part.

    ended      its producer has said the end
    opened_at  when it was welcomed
    """

    def __init__(self, id: bytes, producer: Producer, now: float) -> None:
        self.id = id
        self.producer = producer
        self.input = producer.input
        self.messages = Grant()
        self.bytes = Grant()
        self.deliveries: dict[int, ParcelDelivery] = {}
        self.finished = RangeSet()
        self.sequence = 0
        self.ended = False
        self.turn = 0
        self.open = True
        self.opened_at = self.due_at = now
        self.parts_at = NEVER
        self.changed = True
        self._floor = 0
        self._number = 0
        self._confirmed = 0
        self._last: tuple[int, ...] = (0, 0, 0, 0, 0)
        self._returned: list[tuple[int, int, int, int]] = []
        self._parts: list[tuple[int, int, int, int]] = []
        self._reply_from = 0

    def hand_back(self, delivery: ParcelDelivery, start: int, stop: int) -> None:
        """Messages [start, stop) of the parcel go back unstarted. They are finished here once the producer has confirmed."""
        self._returned.append((delivery.sequence, start, stop, self._number + 1))
        self.ask_reply()

    def tell_parts(self, now: float) -> None:
        """Has the next statement say which messages of parcels that have been here for long are finished."""
        self.parts_at = now + PARTS_S if self.deliveries else NEVER
        for sequence, delivery in self.deliveries.items():
            if delivery.arrived_at > now - PARTS_S or len(self._parts) >= MAX_PARTS:
                break
            for start, stop in delivery.take_parts():
                self._parts.append((sequence, start, stop, self._number + 1))
                self.ask_reply()
                self.due_at = now

    def ask_reply(self) -> None:
        """The next statement, and all until its confirm, ask for one."""
        self._reply_from = self._number + 1

    def admits(self, messages: int, bytes_: int) -> bool:
        """Whether so much that arrived is within the credit that was given."""
        return (
            self.messages.received + messages <= self.messages.ceiling
            and self.bytes.received + bytes_ <= self.bytes.ceiling
        )

    def confirmed(self, confirm: frames.Confirm) -> bool:
        """Takes in what the producer has read and sent. False for a late copy. Raises PeerError for what cannot be true.

        All that a confirm counts only grows, so of two of them one is the older in every count.
        """
        if confirm.number > self._number:
            raise PeerError(f"confirms statement {confirm.number}, of {self._number} made")
        if confirm.sent_messages > self.messages.ceiling or confirm.sent_bytes > self.bytes.ceiling:
            raise PeerError(
                f"has sent {confirm.sent_messages} messages, {confirm.sent_bytes} bytes: more than its credit"
            )
        counts = (confirm.number, confirm.sequence, confirm.sent_messages, confirm.sent_bytes, confirm.lowest)
        grows = [new >= old for new, old in zip(counts, self._last, strict=True)]
        if not all(grows):
            if any(new > old for new, old in zip(counts, self._last, strict=True)):
                raise PeerError(f"goes back with a count of its confirms: {counts} after {self._last}")
            return False
        self._last = counts
        self.messages.confirm(confirm.number, confirm.sent_messages)
        self.bytes.confirm(confirm.number, confirm.sent_bytes)
        # The need that an older confirm states was met by a parcel that has arrived since.
        need = confirm.need_bytes if confirm.sequence >= self.sequence else 0
        self.bytes.need = need
        self.messages.need = min(need, 1)
        self._confirmed = max(self._confirmed, confirm.number)
        self._parts = [part for part in self._parts if part[3] > confirm.number]
        waiting, self._returned = self._returned, []
        for entry in waiting:
            sequence, start, stop, number = entry
            if number > confirm.number:
                self._returned.append(entry)
            elif sequence in self.deliveries:
                self.deliveries[sequence].finish(start, stop)
        return True

    def finish_returned(self) -> None:
        """The session is over: what was handed back is the producer's, whether or not it has confirmed."""
        for sequence, start, stop, _ in self._returned:
            self.deliveries[sequence].finish(start, stop)
        self._returned = []

    @property
    def unacked(self) -> int:
        """Messages of which the producer was not told that they are finished."""
        return sum(
            one.count - sum(stop - start for start, stop in one.acked_parts or ()) for one in self.deliveries.values()
        )

    @property
    def all_confirmed(self) -> bool:
        """The producer has read the last statement, and nothing has changed since."""
        return self._confirmed == self._number and not self.changed

    @property
    def needs_room(self) -> bool:
        """The producer has said that it cannot go on without room."""
        return self.messages.need > 0 or self.bytes.need > 0

    @property
    def out_of_credit(self) -> bool:
        """The producer has no credit for its next message."""
        return self.messages.room < 1 or self.bytes.starving

    @property
    def pressing(self) -> bool:
        """It might be `low` if it was given its share. What the producer has said it needs does not count (`needs_room`)."""
        return self.messages.pressing or self.bytes.pressing

    @property
    def low(self) -> bool:
        """The producer may soon stand still for want of credit that could be stated."""
        return self.messages.low or self.bytes.low

    def state(self, rate: float, leaving: bool, seen_stopped: bool) -> frames.Statement:
        """The next statement."""
        self._number += 1
        self.messages.issue(self._number)
        self.bytes.issue(self._number)
        for start, stop in self.finished:
            if start <= self._floor + 1:
                self._floor = max(self._floor, stop - 1)
        self.finished.discard_below(self._floor + 1)
        self.due_at = NEVER
        self.changed = False
        return frames.Statement(
            self.id,
            self._number,
            self.messages.limit,
            self.bytes.limit,
            self.sequence,
            self.messages.released,
            self._floor,
            [[start, stop] for start, stop in self.finished],
            [[sequence, start, stop] for sequence, start, stop, _ in self._returned],
            [[sequence, start, stop] for sequence, start, stop, _ in self._parts[:MAX_PARTS]],
            rate,
            leaving or self._confirmed < self._reply_from,
            leaving,
            seen_stopped,
        )
