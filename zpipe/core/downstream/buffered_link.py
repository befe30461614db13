"""A link with a disk buffer: outputs are settled once they are durable, and go to consumers from there, through an outlet.

May live here: joining the two, and what becomes of both at the end of the stream. Which messages are durable is the buffer's
(`core/buffer`), sending them the outlet's; the files are those of its shell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zpipe.core.actions import Action, SendParcel, ToLink
from zpipe.core.buffer.disk_buffer import DiskBuffer
from zpipe.core.buffer.orders import BufferEvent, FoundBuffer
from zpipe.core.downstream.memory_link import Ages
from zpipe.core.downstream.outlet import Outlet
from zpipe.core.ledger import Derivation
from zpipe.core.policy import Bound, BufferPolicy, LinkPolicy
from zpipe.core.work.task import Chunk


class BufferedLink:
    """An `OutgoingLink`. `shell`: the name of the one that has the files;  found: what the life before has left in them.

    unsent  offered and not ordered to be written yet, for want of room;  stored: ordered or durable, and with no consumer
    left    the stream has ended, and what is stored is kept for the next run: nothing more is sent
    """

    def __init__(
        self,
        name: str,
        consumer: str,
        shell: str,
        policy: LinkPolicy,
        buffer: BufferPolicy,
        unacked: Bound,
        found: FoundBuffer,
    ) -> None:
        self.name = name
        self.consumer = consumer
        self.outlet = Outlet(name, consumer, policy, found.identity, found.next_number)
        self.outlets = (self.outlet,)
        self.buffer = DiskBuffer(buffer, unacked, found, self.outlet)
        self.outlet.remember_from(self.buffer.lowest_noted)
        self.shell = shell
        self._policy = buffer
        self.left = False
        self._changed = True
        self._acked = 0
        self._ages = Ages()
        for number, at in found.stored_at:
            self._ages.mark(at, number)

    # ---- what it holds

    @property
    def acked(self) -> int:
        return self.buffer.finished_total

    @property
    def unsent_messages(self) -> int:
        return self.buffer.waiting_messages

    @property
    def unsent_bytes(self) -> int:
        return self.buffer.waiting_bytes

    @property
    def in_flight_messages(self) -> int:
        return self.outlet.in_flight_messages

    @property
    def stored_messages(self) -> int:
        return self.buffer.stored_messages - self.buffer.waiting_messages - self.outlet.in_flight_messages

    @property
    def stored_bytes(self) -> int:
        return max(self.buffer.stored_bytes - self.buffer.waiting_bytes - self.outlet.in_flight_bytes, 0)

    @property
    def _to_be_sent(self) -> int:
        """Stored messages without those that the disk cannot give to this life."""
        return self.stored_messages - self.buffer.unreadable_messages

    @property
    def held_messages(self) -> int:
        return self.buffer.pending_messages

    @property
    def held_bytes(self) -> int:
        return self.buffer.pending_bytes

    @property
    def room(self) -> int:
        return self.buffer.room

    @property
    def awaits_acks(self) -> bool:
        """It takes nothing more, and consumers have all that it has."""
        return self.buffer.room <= 0 and not self._to_be_sent and self.in_flight_messages > 0

    def offer(self, chunk: Chunk, derivation: Derivation) -> None:
        self._changed = True
        self.buffer.offer(chunk, derivation)

    def heard(self, event: BufferEvent, now: float) -> tuple[()]:
        """The files have done something of what was ordered."""
        self._changed = True
        self.buffer.heard(event)
        self.outlet.remember_from(self.buffer.lowest_noted)
        return ()

    # ---- sending

    @property
    def waiting(self) -> bool:
        return self._changed or self.outlet.acked != self._acked or (self.outlet.unsent_messages > 0 and not self.left)

    @property
    def send_at(self) -> float:
        return self.outlet.send_at

    def sendable(self, now: float) -> Iterator[Action]:
        if not self.left:
            yield from self.outlet.sendable(now)
        self._changed = False
        self._acked = self.outlet.acked
        for order in self.buffer.orders():
            yield ToLink(self.shell, order)
        self.outlet.settle_below(self.buffer.lowest)

    # ---- the end

    def leave_stored(self) -> None:
        self.left = True

    @property
    def drained(self) -> bool:
        if self.left:
            return not (self.held_messages or self.in_flight_messages)
        return self.buffer.stored_messages == self.buffer.unreadable_messages

    def ends(self, now: float) -> Iterator[SendParcel]:
        return self.outlet.ends(now)

    @property
    def end_acked(self) -> bool:
        """If the rest is left stored, no consumer need be there to hear of the end."""
        return self.outlet.end_acked or (self.left and not self.outlet.sessions)

    def note_end_acked(self) -> None:
        self.outlet.note_end_acked()

    @property
    def all_ended(self) -> bool:
        return self.outlet.all_ended

    @property
    def stop_seen(self) -> bool:
        return self.outlet.stop_seen

    def stopped(self, ended: bool) -> tuple[()]:
        return self.outlet.stopped(ended)

    @property
    def lacks_consumers(self) -> bool:
        """The disk takes nothing, so what is not durable has to come again from above."""
        return self.held_messages > 0

    # ---- what it says of itself

    def figures(self, now: float) -> dict[str, Any]:
        """Its row of a snapshot. The oldest message is as old as it is stored, also by former lives."""
        figures = self.buffer.figures()
        self._ages.mark(now, self.buffer.next_number)
        kept = {
            "produced": self.buffer.taken,
            "acked": self.acked,
            "unsent": self.unsent_messages + self.stored_messages,
            "unsent_bytes": self.unsent_bytes + self.stored_bytes,
            "oldest_s": self._ages.age(now, self.buffer.lowest),
        }
        stored = {
            "stored": self.stored_messages,
            "stored_bytes": self.stored_bytes,
            "disk_bytes": figures.disk_bytes,
            "segments": figures.segments,
            "pending": figures.pending_messages,
            "unreadable": figures.unreadable_messages,
            "lost": figures.lost_total,
            "bad": figures.bad_total,
            "write_s": figures.write_s,
            "sync_s": figures.sync_s,
            "trouble": figures.trouble,
            "messages_bound": self._policy.messages,
            "bytes_bound": self._policy.bytes,
            "left": self.left,
        }
        return self.outlet.figures(now) | kept | {"buffer": stored}

    def off(self) -> int:
        """0 when the identities hold."""
        return self.buffer.off() or self.outlet.off()
