"""The segments of a disk buffer as one process writes them: appending, syncing, going on to the next, removing.

Must not live here: when any of it is done, and what is done when it fails (`segment_log`). Used by one thread.

What the last life left is completed, and never written to again: a life begins segments of its own. So a record that was damaged
or cut off is never followed by another life's, and no number that may have been sent is used twice. A segment that the disk does
not give in whole is left as it is for the next life.
"""

from __future__ import annotations

import errno
import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from zpipe.core.buffer.orders import Append, FoundBuffer, FoundSegment
from zpipe.core.buffer.record import (
    HEAD_BYTES,
    HINT_BYTES,
    IDENTITY_BYTES,
    RECORD_BYTES,
    Head,
    SegmentCodec,
    write_head,
)
from zpipe.core.ranges import RangeSet
from zpipe.core.wire.cbor import Encoded
from zpipe.errors import OperatorError
from zpipe.runtime.segment_folder import (
    BAD_FOLDER,
    BEGUN,
    HINTS,
    MOST_NUMBERS,
    BufferFolder,
    Disk,
    Segment,
    SegmentFile,
    begun_path,
    hints_path,
    is_cut_off,
    segment_path,
    stored_times,
)

MOST_PIECES = 1024
"""The most that one call writes: IOV_MAX."""
MOST_BAD_FILES = 256
MOST_BAD_BYTES = 1 << 20
"""What is kept of each damaged place. With MOST_BAD_FILES of them at most, a failing disk is not filled up by them."""


class SegmentWriter:
    """next_number     the first that is not written yet
    durable_number  all below it survive a loss of power
    begun           first numbers of segments that were begun, until whoever uses this takes them out
    disk_bytes      of all segments
    segments        by first number, ascending; of the one that is written to only what is durable
    stored_times    what `segment_folder.stored_times` says of what the last life left
    error           why the disk did not give all that the last life left, in words; "" if it did
    """

    def __init__(self, disk: Disk, folder: Path, segment_bytes: int) -> None:
        self.next_number = 1
        self.durable_number = 1
        self.begun: list[int] = []
        self.disk_bytes = 0
        self.segments: dict[int, Segment] = {}
        self.error = ""
        self.stored_times: list[tuple[int, float]] = []
        self._disk = disk
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._identity = b""
        self._key = 0
        self._fd = -1
        self._first = 0
        self._codec = SegmentCodec(0, 0)
        self._size = 0
        self._durable_size = 0
        self._folder_synced = True
        self._replaceable = 0

    # ---- what the last life left

    def open(self) -> FoundBuffer:
        """Reads the folder, cuts off what was not written to its end, and syncs the rest. Raises OperatorError if the folder
        cannot be listed: then nobody knows what is in it."""
        with suppress(OSError):  # a disk that is read-only or full: what is there can still be read
            self._disk.make_folder(self._folder)
        try:
            found = BufferFolder(self._disk, self._folder)
        except FileNotFoundError:
            found = None
        except OSError as error:
            hint = "its owner must be the user that runs the stage"
            raise OperatorError(f"cannot read the disk buffer {self._folder}: {error.strerror}; {hint}") from None
        finished = RangeSet()
        for start, stop in found.finished() if found is not None else ():
            finished.add(start, stop)
        if found is not None:
            self.error = found.error
            self.stored_times = list(stored_times(self._disk, found, finished))  # before these files are written to
        segments = found.segments if found is not None else []
        if found is None or found.identity is None:
            self._identity, self._key = os.urandom(IDENTITY_BYTES), int.from_bytes(os.urandom(4), "little")
        else:
            self._identity, self._key = found.identity, found.key
        torn = 0
        for segment in segments:
            torn = self._take_over(segment, segment is segments[-1])
        if segments:
            self._go_on_after(segments[-1])
        self._remove_leftovers(found)
        listed = [FoundSegment(one.first, one.stop, one.bytes, one.unread) for one in self.segments.values()]
        return FoundBuffer(
            identity=self._identity.hex(),
            next_number=self.next_number,
            segments=tuple(listed),
            finished=tuple(finished),
            disk_bytes=self.disk_bytes,
            torn_bytes=torn,
            bad_files=self.bad_files(),
            unreadable=tuple(self._unreadable()),
        )

    def _unreadable(self) -> Iterator[tuple[int, int]]:
        """Ranges of numbers that may have messages in those parts of segments that the disk did not give."""
        for first, after in pairwise([*self.segments, self.next_number]):
            segment = self.segments[first]
            if segment.unread and segment.stop < after:
                yield segment.stop, after

    def _take_over(self, segment: Segment, last: bool) -> int:
        """Gives a segment its last record where it has none. Returns how many bytes are cut off at the end of the last one."""
        self.segments[segment.first] = segment
        if segment.unread:
            self.disk_bytes += segment.bytes
            return 0
        torn = max(segment.bytes - max(segment.end, HEAD_BYTES), 0) if last and not segment.complete else 0
        if torn and not is_cut_off(self._disk, self._folder, segment):
            self.keep_damage(segment.first, segment.end, segment.bytes)
        if not segment.complete and segment.stop > segment.first and HEAD_BYTES < segment.end <= segment.bytes:
            with suppress(OSError):  # the next life tries again
                segment = self._written_end(segment)
        self.segments[segment.first] = segment
        self.disk_bytes += segment.bytes
        return torn

    def _written_end(self, segment: Segment) -> Segment:
        fd = self._disk.open(segment_path(self._folder, segment.first), os.O_RDWR)
        try:
            self._disk.truncate(fd, segment.end)
            self._write_all(fd, [segment.codec.write_end(segment.end, segment.stop, False)], segment.end)
            # A killed process may have written what no fdatasync was made for.
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        return segment._replace(bytes=segment.end + RECORD_BYTES, complete=True)

    def _go_on_after(self, last: Segment) -> None:
        """If the life that wrote the last segment did not complete it, the disk may have lost records at its end that were sent.
        So the numbers that those may have had are not used again."""
        self.next_number = self.durable_number = last.stop + (0 if last.orderly else MOST_NUMBERS)
        if last.orderly and last.stop == last.first:
            self._replaceable = last.first

    def _remove_leftovers(self, found: BufferFolder | None) -> None:
        """Segments without a message, but for the last, whose name has the next number; hints without a segment."""
        for first, segment in list(self.segments.items()):
            empty = segment.stop == segment.first and not segment.unread
            if empty and segment is not next(reversed(self.segments.values())):
                with suppress(OSError):
                    self.remove(first)
        wanted = {hints_path(self._folder, first).name for first in self.segments}
        for name in found.names if found is not None else ():
            if name.endswith((HINTS, BEGUN)) and name not in wanted:
                with suppress(OSError):
                    self._disk.remove(self._folder / name)

    # ---- writing

    def write(self, appends: Sequence[Append]) -> None:
        """Writes these, which are durable after the next `sync` (some may be before). If it raises OSError, those that are not
        durable are to be written again."""
        try:
            at = 0
            while at < len(appends):
                at += self._write_some(appends, at)
        except OSError:
            self._take_back()
            raise

    def _write_some(self, appends: Sequence[Append], at: int) -> int:
        """Writes as many as go into one call and into the segment. Returns how many those were."""
        if self._fd >= 0 and self._size >= self._segment_bytes:
            self._end_segment()
        if self._fd < 0:
            self._begin_segment(appends[at].first)
        pieces: list[Encoded] = []
        start = self._size
        size = start
        while at < len(appends) and len(pieces) < MOST_PIECES and (size < self._segment_bytes or size == start):
            append = appends[at]
            pieces += (self._codec.write(size, *append), append.body)
            size += RECORD_BYTES + len(append.body)
            at += 1
        self._write_all(self._fd, pieces, start)
        self._size = size
        self.disk_bytes += size - start
        self.next_number = appends[at - 1].first + appends[at - 1].messages
        return len(pieces) // 2

    def _write_all(self, fd: int, pieces: Sequence[Encoded], offset: int) -> None:
        total = sum(map(len, pieces))
        written = self._disk.write(fd, pieces, offset)
        if written == total:
            return
        rest = memoryview(b"".join(pieces))
        while written < total:
            more = self._disk.write(fd, [rest[written:]], offset + written)
            if not more:
                raise OSError(errno.EIO, "nothing was written")
            written += more

    def sync(self) -> None:
        """Makes everything durable that was written. If it raises OSError, what is not durable is to be written again, to another
        segment: after a failed fdatasync nobody knows what is on the disk, and the next one may succeed all the same."""
        try:
            if self._fd >= 0:
                self._disk.sync(self._fd)
            if not self._folder_synced:
                self._disk.sync_folder(self._folder)
                self._folder_synced = True
        except OSError:
            self._abandon()
            raise
        self.durable_number, self._durable_size = self.next_number, self._size
        if self._fd >= 0:
            self._note_active()

    def _note_active(self) -> None:
        """Notes how much of the segment that is written to may be read."""
        segment = Segment(self._first, self.durable_number, self._durable_size, self._size, False, self._codec)
        self.segments[self._first] = segment

    def _begin_segment(self, first: int) -> None:
        self._disk.make_folder(self._folder)
        replaced = first == self._replaceable
        path = begun_path(self._folder, first) if replaced else segment_path(self._folder, first)
        if replaced:  # its name must never be missing: it may be all that tells the next life which numbers were used
            with suppress(FileNotFoundError):
                self._disk.remove(path)
        fd = self._disk.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._replaceable = first
        try:
            self._write_all(fd, [write_head(Head(first, self._identity, self._key, int(time.time())))], 0)
            if replaced:
                self._disk.rename(path, segment_path(self._folder, first))
        except OSError:
            with suppress(OSError):
                self._disk.close(fd)
            raise
        self._forget(first)
        self._fd, self._first, self._codec = fd, first, SegmentCodec(first, self._key)
        self._size = self._durable_size = HEAD_BYTES
        self.disk_bytes += HEAD_BYTES
        self._folder_synced = False
        self.next_number = self.durable_number = first
        self._note_active()
        self.begun.append(first)

    def _end_segment(self) -> None:
        """Syncs the segment that is written to, completes and closes it. Its last record need not be durable."""
        self.sync()
        self._close_active()

    def _close_active(self) -> None:
        """Completes and closes the segment that is written to. If that fails, all that is durable can be read all the same."""
        fd, self._fd = self._fd, -1
        end, size, complete = self._durable_size, self._size, False
        with suppress(OSError):
            if size > end:
                self._disk.truncate(fd, end)
                size = end
            self._write_all(fd, [self._codec.write_end(end, self.durable_number)], end)
            size, complete = end + RECORD_BYTES, True
        with suppress(OSError):
            self._disk.close(fd)
        self.disk_bytes += size - self._size
        self.segments[self._first] = Segment(self._first, self.durable_number, end, size, complete, self._codec)
        self._replaceable = self._first if self.durable_number == self._first else 0

    def _abandon(self) -> None:
        """Gives the segment up: nothing more is written to it, and what is not durable in it is not read either."""
        self.next_number = self.durable_number
        if self._fd >= 0:
            self._close_active()

    def _take_back(self) -> None:
        """After a failed write: cuts off what is not durable, so that no broken record is left in the middle of the segment."""
        self.next_number = self.durable_number
        if self._fd < 0:
            return
        try:
            self._disk.truncate(self._fd, self._durable_size)
        except OSError:
            self._abandon()
        else:
            self.disk_bytes -= self._size - self._durable_size
            self._size = self._durable_size

    def close(self) -> None:
        """Completes the segment that is written to. What is not durable by then is lost. Raises nothing."""
        if self._fd >= 0:
            self._close_active()

    # ---- what is finished

    def remove(self, first: int) -> None:
        """Unlinks a segment in which nothing is needed any more. Raises OSError if it is still there."""
        if first not in self.segments:
            return
        if first == next(reversed(self.segments)):
            if self.next_number > self.durable_number:
                raise OSError(errno.EBUSY, "its last records are being written")
            if self._fd >= 0:
                self._close_active()
            # By the name of the last segment the next life knows the number to go on with, so another is begun first. A full disk
            # may have no room for it. If no other segment is left, that is no harm: a life that finds none begins a new identity.
            # Otherwise it would take the identity from the others and use numbers twice.
            alone = len(self.segments) == 1
            try:
                self._begin_segment(self.next_number)
            except OSError:
                if not alone:
                    raise
            if self._fd >= 0 and self._first == first:
                return
        if not self._folder_synced:
            self._disk.sync_folder(self._folder)
            self._folder_synced = True
        with suppress(FileNotFoundError):
            self._disk.remove(segment_path(self._folder, first))
        self._forget(first)
        with suppress(OSError):
            self._disk.remove(hints_path(self._folder, first))

    def _forget(self, first: int) -> None:
        segment = self.segments.pop(first, None)
        if segment is not None:
            self.disk_bytes -= segment.bytes

    def write_hints(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Notes that these messages are finished, in the hints of their segments. Raises OSError: then some may be noted."""
        by_segment: dict[int, list[bytes]] = {}
        for start, stop in ranges:
            for first, low, high in self._parts(start, stop):
                by_segment.setdefault(first, []).append(self.segments[first].codec.write_hint(low, high))
        for first, entries in by_segment.items():
            fd = self._disk.open(hints_path(self._folder, first), os.O_RDWR | os.O_CREAT)
            try:
                size = self._disk.size(fd)
                self._write_all(fd, [b"".join(entries)], size - size % HINT_BYTES)
            finally:
                self._disk.close(fd)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(segment, start, stop) of what the segments have of these messages."""
        firsts = list(self.segments)
        for first in firsts[max(bisect_right(firsts, start) - 1, 0) : bisect_left(firsts, stop)]:
            low, high = max(start, first), min(stop, self.segments[first].stop)
            if low < high:
                yield first, low, high

    # ---- what is damaged

    def keep_damage(self, first: int, start: int, stop: int) -> None:
        """Keeps bytes [start, stop) of a segment for people. Raises nothing: a disk that is damaged may be full besides."""
        with suppress(OSError):
            folder = self._folder / BAD_FOLDER
            self._disk.make_folder(folder)
            if len(self._disk.names(folder)) >= MOST_BAD_FILES:
                return
            file = SegmentFile(self._disk, segment_path(self._folder, first))
            try:
                content = bytes(file.piece(start, min(stop - start, MOST_BAD_BYTES), 0))
            finally:
                file.close()
            fd = self._disk.open(folder / f"{first:020d}-{start}", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            try:
                self._write_all(fd, [content], 0)
            finally:
                self._disk.close(fd)

    def bad_files(self) -> int:
        """How many damaged places are kept."""
        try:
            return len(self._disk.names(self._folder / BAD_FOLDER))
        except OSError:
            return 0
