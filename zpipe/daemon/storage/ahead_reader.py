"""Reading a disk buffer ahead of what its consumers take: record by record, in the order of the numbers.

Must not live here: when to read, and what becomes of the messages. Used by the thread that writes the segments.
"""

from __future__ import annotations

from pathlib import Path

from zpipe.core.buffer.orders import Records, StoredRecord
from zpipe.daemon.storage.segment_writer import SegmentWriter
from zpipe.runtime.segment_folder import Damage, Disk, Segment, SegmentFile, SegmentReader, Whole, is_lost, segment_path

READ_TRIES = 10
"""A page that cannot be read is tried so often, once a second, before it is passed over: a lost path to a disk comes back, a bad
sector does not."""


class _Found:
    """What one read has found so far. `error`: why the last page that was passed over could not be read."""

    def __init__(self, number: int) -> None:
        self.next_number = number
        self.records: list[StoredRecord] = []
        self.bytes = 0
        self.bad = 0
        self.error: OSError | None = None
        self._bad_before = 0
        self._number = number
        self._unreadable: list[tuple[int, int]] = []

    def add(self, one: Whole) -> None:
        header = one.header
        self.records.append(StoredRecord(header.first, header.messages, header.attempt, one.body))
        self.bytes += header.size
        self.next_number = header.stop
        self._bad_before = self.bad

    def cut(self) -> None:
        """Ends the result after the last record: what came after it is read again."""
        self.bad = self._bad_before

    def pass_to(self, number: int) -> None:
        """No record below `number` is to come."""
        self.next_number = max(self.next_number, number)
        self._bad_before = self.bad

    def note_bad(self) -> None:
        self.bad += 1

    def note_unread(self, error: OSError | None) -> None:
        self.error = error

    def leave(self, start: int, stop: int) -> None:
        """The disk does not give messages [start, stop)."""
        if start < stop:
            self._unreadable.append((start, stop))

    def as_records(self) -> Records:
        return Records(self._number, self.next_number, tuple(self.records), self.bad, tuple(self._unreadable))


class AheadReader:
    """Keeps its place, since the next read mostly goes on where the last one ended.

    failures  reads that have failed since one has worked
    """

    def __init__(self, disk: Disk, folder: Path, writer: SegmentWriter) -> None:
        self.failures = 0
        self._disk = disk
        self._folder = folder
        self._writer = writer
        self._segment = -1
        self._file: SegmentFile | None = None
        self._reader: SegmentReader | None = None

    def read(self, number: int, most_bytes: int) -> Records:
        """What is durable from message `number` on, at most `most_bytes` of it but at least one record. Raises OSError if the
        disk does not give it now: it is to be read again later. A page that it never gives is passed over in the end, if anything
        behind it can be read; its messages are called unreadable."""
        found = _Found(number)
        try:
            self._read(found, most_bytes, self.failures >= READ_TRIES)
        except OSError:
            self.close()
            if not found.records:
                self.failures += 1
                raise
            found.cut()
        if self._file is not None:
            self._file.be_strict()  # the next page that cannot be read gets READ_TRIES of its own
        self.failures = 0
        return found.as_records()

    def _read(self, found: _Found, most_bytes: int, tolerant: bool) -> None:
        while found.bytes < most_bytes or not found.records:
            segment = self._segment_of(found.next_number)
            if segment is None:
                found.pass_to(self._writer.durable_number)
                break
            try:
                file, reader = self._reader_at(segment, found.next_number, tolerant)
            except OSError as error:
                if not is_lost(error):
                    raise
                found.note_bad()
                found.pass_to(segment.stop)
                continue
            self._read_segment(found, most_bytes, segment, file, reader)
        if found.error is not None and not found.records:
            raise found.error

    def _read_segment(
        self, found: _Found, most_bytes: int, segment: Segment, file: SegmentFile, reader: SegmentReader
    ) -> None:
        gap_at = max(found.next_number, segment.first)
        unread = False
        while found.bytes < most_bytes or not found.records:
            one = reader.next()
            if isinstance(one, Damage):
                if file.is_unread(one.start, one.stop):
                    unread = True
                    found.note_unread(file.error)
                else:
                    found.note_bad()
                    self._writer.keep_damage(segment.first, one.start, one.stop)
                continue
            if unread:
                found.leave(gap_at, segment.stop if one is None else one.header.first)
                unread = False
            if one is None:
                found.pass_to(segment.stop)
                return
            gap_at = max(gap_at, one.header.stop)
            if one.header.stop > found.next_number:
                found.add(one)

    def _segment_of(self, number: int) -> Segment | None:
        """The first segment that has the message, or a later one. None: nothing is durable from there on."""
        later = None
        for segment in reversed(self._writer.segments.values()):
            if segment.stop <= number:
                break
            if segment.stop > segment.first:
                later = segment
        return later

    def _reader_at(self, segment: Segment, number: int, tolerant: bool) -> tuple[SegmentFile, SegmentReader]:
        file, reader = self._file, self._reader
        if file is None or reader is None or self._segment != segment.first or reader.number > number:
            self.close()
            file = self._file = SegmentFile(self._disk, segment_path(self._folder, segment.first), tolerant)
            reader = self._reader = SegmentReader(file, segment.codec, segment.first, segment.stop, segment.end)
            self._segment = segment.first
        reader.extend(segment.stop, segment.end)
        reader.skip(number)
        return file, reader

    def close(self) -> None:
        """Closes the file that is open."""
        if self._file is not None:
            self._file.close()
        self._file = self._reader = None

    def release(self, first: int) -> None:
        """The segment is about to be removed, or another is about to have its name."""
        if self._segment == first:
            self.close()
