"""Which messages of a disk buffer are durable, read ahead, and finished; which segments may go; how much more it takes.

May live here: the numbers of messages, and where those are. Must not live here: files, consumers, and the bytes of a record.

A message goes this way: offered; ordered to be written, as far as the bounds allow; durable, so that upstream is acked; put to
the sender, at once while consumers keep up, else after it was read again; finished.
`offered and found = finished + lost + pending + unread + unreadable + at sender`.
There is nothing here for each message or section: what is on the disk is known by ranges of numbers and by segments.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from zpipe.core.buffer.orders import (
    Append,
    BufferEvent,
    Durable,
    Finish,
    FoundBuffer,
    Noted,
    Order,
    Read,
    Records,
    Remove,
    Removed,
    Space,
    StoredRecord,
)
from zpipe.core.buffer.record import HEAD_BYTES, RECORD_BYTES
from zpipe.core.ledger import Derivation, Owners
from zpipe.core.policy import Bound, BufferPolicy
from zpipe.core.ranges import RangeSet
from zpipe.core.wire.section import Section
from zpipe.core.work.task import Chunk
from zpipe.errors import PeerError

SEGMENT_OVERHEAD_BYTES = HEAD_BYTES + RECORD_BYTES
"""The head and the last record of each segment."""


class Ahead(Protocol):
    """What sends messages to consumers (an outlet). It keeps a section in memory until that is acked, and then settles it."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait there for consumers to have room."""

    def put(self, section: Section) -> None:
        """Takes a section over, which is sent after those that wait there."""


class BufferFigures(NamedTuple):
    """For snapshots.

    stored    not finished, wherever they are; bytes by the mean of each segment
    disk      bytes of all files;  pending  not durable yet
    unread    durable, and not in memory;  write_s, sync_s  of the last group commit
    unreadable  of what is stored: the disk did not give them, and the next life tries again
    """

    stored_messages: int
    stored_bytes: int
    disk_bytes: int
    segments: int
    pending_messages: int
    pending_bytes: int
    unread_messages: int
    unreadable_messages: int
    finished_total: int
    lost_total: int
    bad_total: int
    torn_bytes: int
    write_s: float
    sync_s: float
    trouble: str


class _Segment:
    __slots__ = ("bytes", "first", "kept", "messages", "stop", "unfinished")

    def __init__(self, first: int, stop: int = 0, size: int = 0, kept: bool = False) -> None:
        self.first = first
        self.kept = kept
        self.stop = max(stop, first)
        self.messages = self.unfinished = self.stop - first
        self.bytes = size

    def add(self, section: Section) -> None:
        """The section is durable in this segment."""
        self.messages += section.count
        self.unfinished += section.count
        self.stop = section.first + section.count
        self.bytes += RECORD_BYTES + section.size

    def finish(self, messages: int) -> None:
        self.unfinished -= messages

    @property
    def is_over(self) -> bool:
        """Nothing in it is needed any more."""
        return not self.unfinished and not self.kept

    @property
    def unfinished_bytes(self) -> int:
        return self.bytes * self.unfinished // self.messages if self.messages else 0


class _Finished(Derivation):
    """The derivation of each section that is put to the sender: it tells the buffer which numbers are finished.

    The owners of such a section are its messages' numbers, so that a part that was cut off it has its own."""

    __slots__ = ("_buffer",)

    def __init__(self, buffer: DiskBuffer) -> None:
        super().__init__(())
        self._buffer = buffer

    def settle(self, messages: int = 1, owners: Owners = None) -> None:
        assert owners is not None
        self._buffer.finish(owners[0], owners[-1] + 1)


class DiskBuffer:
    """The buffer of one link.

    unacked  bounds what is offered and not durable: it is in memory, and upstream answers for it
    lowest   no message numbered below it will be put again;  lowest_noted: nor by the next life, whenever this one is killed
    taken    found or offered;  waiting: offered, and not ordered to be written yet
    """

    def __init__(self, policy: BufferPolicy, unacked: Bound, found: FoundBuffer, ahead: Ahead) -> None:
        self.identity = found.identity
        self.unread_messages = 0
        self.unreadable_messages = 0
        self.pending_messages = 0
        self.pending_bytes = 0
        self._policy = policy
        self._unacked = unacked
        self._ahead = ahead
        self._space = found.space
        self._disk_bytes = found.disk_bytes
        self.next_number = self._durable = found.next_number
        self._finished = RangeSet()
        self._unreadable = RangeSet()
        self._noted = RangeSet()
        self._derivation = _Finished(self)
        self._segments = [_Segment(*one) for one in found.segments]
        self._waiting: deque[Section] = deque()
        self.waiting_messages = 0
        self._ordered: deque[Section] = deque()
        self._ordered_bytes = 0
        self._hints = RangeSet()
        self._emptied: set[int] = set()
        self._reading = False
        self._at_sender = 0
        self.taken = 0
        self.finished_total = 0
        self.lost_total = 0
        self._bad_total = found.bad_files
        self._torn_bytes = found.torn_bytes
        self._write_s = self._sync_s = 0.0
        self._take_over(found)
        self._read_at = self.lowest if self.unread_messages else None

    def _take_over(self, found: FoundBuffer) -> None:
        """What the last life left, and the numbers that are in no segment."""
        at = 0
        for segment in self._segments:
            self._finished.add(at, segment.first)
            at = segment.stop
            self.unread_messages += segment.messages
            if segment.is_over:  # torn before anything in it was durable
                self._emptied.add(segment.first)
        self._finished.add(at, found.next_number)
        for start, stop in found.unreadable:  # so that no consumer takes them for settled
            self._finished.remove(start, stop)
            self._unreadable.add(start, stop)
        for start, stop in found.finished:
            for low, high in self._unfinished(start, stop):
                self._count_finished(low, high)
                self.unread_messages -= high - low
            self._finished.add(start, stop)
        for start, stop in self._finished:
            self._noted.add(start, stop)
        self.taken = self.unread_messages

    # ---- what it holds

    @property
    def lowest(self) -> int:
        return self._finished.first_stop

    @property
    def lowest_noted(self) -> int:
        return self._noted.first_stop

    @property
    def stored_messages(self) -> int:
        """Everything that is not finished."""
        return self.pending_messages + self.unread_messages + self.unreadable_messages + self._at_sender

    @property
    def stored_bytes(self) -> int:
        """Likewise; of what is durable by the mean of each segment."""
        return self.pending_bytes + sum(segment.unfinished_bytes for segment in self._segments)

    @property
    def waiting_bytes(self) -> int:
        return self.pending_bytes - (self._ordered_bytes - RECORD_BYTES * len(self._ordered))

    @property
    def room(self) -> int:
        """How many more messages may be offered now: 0 while some wait for room on the disk, or the log takes none."""
        if not self._space.taking or self.pending_bytes >= self._unacked.bytes:
            return 0
        if self._bytes_after(self.waiting_bytes) >= self._policy.bytes:
            return 0
        room = min(self._policy.messages - self.stored_messages, self._unacked.messages - self.pending_messages)
        return max(room, 0)

    @property
    def space(self) -> Space:
        """What the log said last."""
        return self._space

    @property
    def trouble(self) -> str:
        """What keeps the log from taking more, or from reading all that it has, in words; "" if nothing does."""
        return self._space.trouble

    def figures(self) -> BufferFigures:
        return BufferFigures(
            stored_messages=self.stored_messages,
            stored_bytes=self.stored_bytes,
            disk_bytes=self._disk_bytes,
            segments=len(self._segments),
            pending_messages=self.pending_messages,
            pending_bytes=self.pending_bytes,
            unread_messages=self.unread_messages,
            unreadable_messages=self.unreadable_messages,
            finished_total=self.finished_total,
            lost_total=self.lost_total,
            bad_total=self._bad_total,
            torn_bytes=self._torn_bytes,
            write_s=self._write_s,
            sync_s=self._sync_s,
            trouble=self._space.trouble,
        )

    def off(self) -> int:
        """0 when the identity holds."""
        return self.taken - self.finished_total - self.lost_total - self.stored_messages

    # ---- what comes from the stage

    def offer(self, chunk: Chunk, derivation: Derivation) -> None:
        """Takes outputs over, and settles them once they are durable."""
        derivation.expect(chunk.messages, chunk.owners)
        section = Section(chunk.body, chunk.messages, self.next_number, 1, derivation, chunk.owners)
        self.next_number += section.count
        self.taken += section.count
        self.waiting_messages += section.count
        self.pending_messages += section.count
        self.pending_bytes += section.size
        self._waiting.append(section)

    def finish(self, start: int, stop: int) -> None:
        """Messages [start, stop) were taken by consumers, and are needed no more."""
        self._at_sender -= stop - start
        self.finished_total += stop - start
        self._end(start, stop)

    def _end(self, start: int, stop: int) -> None:
        """Nothing is owed for these numbers any more, which the next life is to know."""
        self._finished.add(start, stop)
        self._hints.add(start, stop)
        self._count_finished(start, stop)

    def _count_finished(self, start: int, stop: int) -> None:
        """Counts messages as finished in their segments, which may be removed when nothing in them is needed."""
        at = bisect_right(self._segments, start, key=lambda segment: segment.first) - 1
        for segment in self._segments[max(at, 0) :]:
            low, high = max(start, segment.first), min(stop, segment.stop)
            if segment.first >= stop:
                return
            if low < high:
                segment.finish(high - low)
                if segment.is_over:
                    self._emptied.add(segment.first)

    # ---- what the log is to do

    def orders(self) -> Iterator[Order]:
        """The orders that follow from what has happened, each once."""
        yield from self._appends()
        for start, stop in self._hints:
            yield Finish(start, stop)
        self._hints = RangeSet()
        gone = self._removable() if self._emptied else ()
        if gone:
            yield Remove(gone)
        room = self._policy.ahead_bytes - self._ahead.unsent_bytes
        if self._read_at is not None and not self._reading and 2 * room >= self._policy.ahead_bytes:
            self._reading = True
            yield Read(self._read_at, room)

    def _appends(self) -> Iterator[Append]:
        while self._waiting:
            self._cut_first()
            first = self._waiting[0]
            if not self._fits(first):
                return
            self._waiting.popleft()
            self.waiting_messages -= first.count
            self._ordered.append(first)
            self._ordered_bytes += RECORD_BYTES + first.size
            yield Append(first.first, first.count, first.attempt, first.body())

    def _fits(self, section: Section) -> bool:
        """Whether it may be written now. A message that is larger than the bound is written when nothing else is there."""
        written = self.stored_messages - self.waiting_messages
        if written + section.count > self._policy.messages:
            return False
        alone = not written and self._disk_bytes <= SEGMENT_OVERHEAD_BYTES
        return alone or self._bytes_after(section.size) <= self._policy.bytes

    def _cut_first(self) -> None:
        """A section of more messages than the bound is cut: else it would never fit."""
        first = self._waiting[0]
        if first.count <= self._policy.messages:
            return
        before = first.size
        part, rest = first.cut(0, self._policy.messages), first.cut(self._policy.messages, first.count)
        part.body()
        rest.body()
        self.pending_bytes += part.size + rest.size - before
        self._waiting[0] = rest
        self._waiting.appendleft(part)

    def _bytes_after(self, size: int) -> int:
        """The most bytes that the files may have when what is ordered is written, and one more record with a body of `size`."""
        more = self._ordered_bytes + size + RECORD_BYTES
        return self._disk_bytes + more + SEGMENT_OVERHEAD_BYTES * (2 + more // self._policy.segment_bytes)

    def _removable(self) -> tuple[int, ...]:
        """Segments that may be removed. The last is kept, as more will be written to it, unless the bound is reached: something
        waits for room, or the files alone reach it, as by a message that was larger than the bound."""
        last = self._segments[-1].first
        full = not self._ordered and (bool(self._waiting) or self._bytes_after(0) >= self._policy.bytes)
        gone = tuple(sorted(first for first in self._emptied if first != last or full))
        self._emptied.difference_update(gone)
        return gone

    # ---- what the log has done

    def heard(self, event: BufferEvent) -> None:
        """Takes in what the log says, and puts to the sender what may be sent now."""
        if isinstance(event, Durable):
            self._note_durable(event)
        elif isinstance(event, Records):
            self._note_read(event)
        elif isinstance(event, Noted):
            for start, stop in event.ranges:
                self._noted.add(start, stop)
        elif isinstance(event, Removed):
            self._disk_bytes = event.disk_bytes
            self._segments = [one for one in self._segments if one.first not in event.segments]
        else:
            self._space = event

    def _note_durable(self, event: Durable) -> None:
        for first in event.segments:
            self._begin_segment(first)
        while self._ordered and self._ordered[0].first < event.stop:
            section = self._ordered.popleft()
            self._ordered_bytes -= RECORD_BYTES + section.size
            self.pending_messages -= section.count
            self.pending_bytes -= section.size
            self._add_to_segment(section)
            section.settle()
            self._put_or_leave(section)
        self._durable = event.stop
        self._disk_bytes = event.disk_bytes
        self._write_s, self._sync_s = event.write_s, event.sync_s

    def _begin_segment(self, first: int) -> None:
        last = self._segments[-1] if self._segments else None
        if last is not None and last.first == first:  # the file of this name was given up with nothing durable in it
            self._emptied.discard(first)
            self._segments[-1] = _Segment(first)
            return
        if last is not None and last.is_over:
            self._emptied.add(last.first)
        self._segments.append(_Segment(first))

    def _add_to_segment(self, section: Section) -> None:
        at = bisect_right(self._segments, section.first, key=lambda one: one.first) - 1
        segment = self._segments[at]
        segment.add(section)
        self._emptied.discard(segment.first)

    def _put_or_leave(self, section: Section) -> None:
        """Kept in memory as long as consumers keep up, so that it need not be read again."""
        waiting_bytes = self._ahead.unsent_bytes
        if self._read_at is None and (not waiting_bytes or waiting_bytes + section.size <= self._policy.ahead_bytes):
            self._put(self._section(section.first, section.count, section.attempt, section.body()))
            return
        self.unread_messages += section.count
        if self._read_at is None:
            self._read_at = section.first

    def _section(self, first: int, count: int, attempt: int, body: bytes) -> Section:
        return Section(body, count, first, attempt, self._derivation, range(first, first + count))

    def _put(self, section: Section) -> None:
        self._at_sender += section.count
        self._ahead.put(section)

    def _note_read(self, event: Records) -> None:
        self._reading = False
        self._bad_total += event.bad
        for start, stop in event.unreadable:
            self._leave(start, stop)
        at = event.number
        for record in event.records:
            self._lose(at, record.first)
            at = record.first + record.messages
            if self._finished.overlaps(record.first, at):
                self._put_unfinished(record)
                continue
            self.unread_messages -= record.messages
            self._put(self._section(*record))
        self._lose(at, event.next_number)
        self._read_at = event.next_number if event.next_number < self._durable else None

    def _put_unfinished(self, record: StoredRecord) -> None:
        """Puts those messages of the record that no former life has finished."""
        whole = self._section(*record)
        for start, stop in self._unfinished(record.first, record.first + record.messages):
            try:
                part = whole.cut(start - record.first, stop - record.first)
            except PeerError:  # the record is whole, but its section cannot be decoded: another version has written it
                self._lose(start, stop)
                continue
            self.unread_messages -= part.count
            self._put(part)

    def _leave(self, start: int, stop: int) -> None:
        """The disk does not give these now. They stay stored."""
        for low, high in self._unfinished(start, stop):
            self.unread_messages -= high - low
            self.unreadable_messages += high - low
            self._unreadable.add(low, high)

    def _lose(self, start: int, stop: int) -> None:
        """These cannot be read. Those of them that were stored are lost."""
        for low, high in self._unfinished(start, stop) if start < stop else ():
            self.unread_messages -= high - low
            self.lost_total += high - low
            self._end(low, high)

    def _unfinished(self, start: int, stop: int) -> list[tuple[int, int]]:
        asked = RangeSet()
        asked.add(start, stop)
        for low, high in self._unreadable:
            asked.remove(low, high)
        return list(asked.minus(self._finished))
