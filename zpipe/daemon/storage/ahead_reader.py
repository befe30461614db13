"""Reading a disk buffer ahead of what its consumers take: record by record, in the order of the numbers.

Must not live here: when to read, and what becomes of the messages. Used by the thread that writes the segments.
"""

from __future__ import annotations

from pathlib import Path

from zpipe.core.buffer.orders import Records, StoredRecord
from zpipe.daemon.storage.segment_writer import SegmentWriter
from zpipe.runtime.segment_folder import Damage, Disk, Segment, SegmentFile, SegmentReader, is_lost, segment_path


class AheadReader:
    """Keeps its place, since the next read mostly goes on where the last one ended."""

    def __init__(self, disk: Disk, folder: Path, writer: SegmentWriter) -> None:
        self._disk = disk
        self._folder = folder
        self._writer = writer
        self._segment = -1
        self._file: SegmentFile | None = None
        self._reader: SegmentReader | None = None

    def read(self, number: int, most_bytes: int) -> Records:
        """What is durable from message `number` on, at most `most_bytes` of it but at least one record. Raises OSError if a
        segment cannot be opened now, but perhaps later."""
        at = number
        records: list[StoredRecord] = []
        size = bad = 0
        while (segment := self._segment_of(at)) is not None:
            try:
                reader = self._reader_at(segment, at)
            except OSError as error:
                if not is_lost(error):
                    raise
                bad, at = bad + 1, segment.stop
                continue
            while records == [] or size < most_bytes:
                found = reader.next()
                if found is None:
                    at = max(at, segment.stop)
                    break
                if isinstance(found, Damage):
                    bad += 1
                    self._writer.keep_damage(segment.first, found.start, found.stop)
                    continue
                header = found.header
                if header.stop > at:
                    records.append(StoredRecord(header.first, header.messages, header.attempt, found.body))
                    size += header.size
                    at = header.stop
            if size >= most_bytes:
                break
        else:
            at = max(at, self._writer.durable_number)
        return Records(number, at, tuple(records), bad)

    def _segment_of(self, number: int) -> Segment | None:
        """The first segment that has the message, or a later one. None: nothing is durable from there on."""
        later = None
        for segment in reversed(self._writer.segments.values()):
            if segment.stop <= number:
                break
            later = segment
        return later

    def _reader_at(self, segment: Segment, number: int) -> SegmentReader:
        reader = self._reader
        if reader is None or self._segment != segment.first or reader.number > number:
            self.close()
            self._file = SegmentFile(self._disk, segment_path(self._folder, segment.first))
            reader = SegmentReader(self._file, segment.codec, segment.first, segment.stop, segment.end)
            self._segment, self._reader = segment.first, reader
        reader.extend(segment.stop, segment.end)
        reader.skip(number)
        return reader

    def close(self) -> None:
        """Lets go of the file that is open, as before it is removed."""
        if self._file is not None:
            self._file.close()
        self._file = self._reader = None

    def release(self, first: int) -> None:
        """The segment is about to be removed, or another is about to have its name."""
        if self._segment == first:
            self.close()
