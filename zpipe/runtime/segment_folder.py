"""Reading the folder of a disk buffer: which segments there are, what is in them, and what is damaged.

Must not live here: writing records, which is `daemon/storage`'s. Used by the daemon that owns the folder, and by commands.

Nothing here raises for what is in a file: whatever it is, the next whole record is looked for. What the disk cannot read is no
damage: it may be read later, so it is told apart, and nobody cuts it off or removes it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from zpipe.core.buffer.record import (
    END,
    HEAD_BYTES,
    MARKER,
    RECORD_BYTES,
    Head,
    Header,
    SegmentCodec,
    read_head,
)
from zpipe.core.ranges import RangeSet
from zpipe.core.wire import section
from zpipe.core.wire.cbor import Encoded
from zpipe.errors import PeerError

SEGMENT, HINTS, BEGUN, BAD_FOLDER = ".seg", ".done", ".new", "bad"
CHUNK_BYTES = 512 * 1024
"""Read at once: a few records of a busy link. Larger reads are not faster from the page cache, and stay in memory for longer."""
PAGE_BYTES = 4096
"""Parts of a file that cannot be read are whole pages of this size."""
MOST_NUMBER = 1 << 62
"""A file named for a higher number is no segment. On the wire numbers are below 2^63, and a life may skip 2^24 of them."""
MOST_NUMBERS = 1 << 24
"""So many numbers are skipped where it is unknown how many were used: a segment has no more messages than bytes."""
_NAME = re.compile(r"([0-9]{20})\.seg")
_LOST = (errno.ENOENT, errno.EISDIR, errno.ELOOP)
"""Errors of opening a segment that say that there is no such file. Only then is it taken for lost and removed. After any other
error, such as one of the disk, the file is kept."""


class Disk:
    """The calls of the operating system that a disk buffer makes, so that a test can have a disk of its own. All may raise
    OSError."""

    def make_folder(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def names(self, folder: Path) -> list[str]:
        return os.listdir(folder)

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def close(self, fd: int) -> None:
        os.close(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def size_of(self, path: Path) -> int:
        """The size of a file, also of one that cannot be opened."""
        return path.stat().st_size

    def modified_at(self, path: Path) -> float:
        """When it was written to last, in seconds since the epoch."""
        return path.stat().st_mtime

    def read(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def write(self, fd: int, pieces: Sequence[Encoded], offset: int) -> int:
        """Returns how many bytes were written, which may be fewer."""
        return os.pwritev(fd, pieces, offset)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync_folder(self, folder: Path) -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self, path: Path) -> None:
        os.unlink(path)

    def rename(self, path: Path, other: Path) -> None:
        """Gives the file another name, in place of a file that has it."""
        path.replace(other)

    def space(self, folder: Path) -> tuple[int, int]:
        """Bytes of the disk: (free for this user, in all)."""
        stat = os.statvfs(folder)
        return stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize


class Segment(NamedTuple):
    """A file with messages [first, stop). `end` is where its records end: behind it is nothing, or a record that was cut off.

    complete  it has its last record;  orderly: and that was written with the others, so that nothing is missing
    bytes     of the file; 0 if there is none
    unread    the disk did not give all of it, so there may be more in it than this
    begun_at  as its head says, or 0
    """

    first: int
    stop: int
    end: int
    bytes: int
    complete: bool
    codec: SegmentCodec
    orderly: bool = False
    unread: bool = False
    begun_at: int = 0


class Whole(NamedTuple):
    """A record as it was written."""

    offset: int
    header: Header
    body: bytes


class Damage(NamedTuple):
    """Bytes [start, stop) are no record."""

    start: int
    stop: int


def segment_path(folder: Path, first: int) -> Path:
    return folder / f"{first:020d}{SEGMENT}"


def begun_path(folder: Path, first: int) -> Path:
    """The file of a new segment that is to replace one of the same name with nothing in it."""
    return folder / f"{first:020d}{BEGUN}"


def hints_path(folder: Path, first: int) -> Path:
    return folder / f"{first:020d}{HINTS}"


def segment_numbers(names: Iterable[str]) -> list[int]:
    """The first numbers of the segments among these names, ascending. Other files may have any names."""
    numbers = (int(found[1]) for name in names if (found := _NAME.fullmatch(name)))
    return sorted(number for number in numbers if 0 < number < MOST_NUMBER)


class SegmentFile:
    """An open segment. Raises OSError from the constructor, and from a read unless it is `tolerant`: then a page that the disk
    cannot read is zeros, which no record is.

    error  why the last page that was not read could not be
    """

    def __init__(self, disk: Disk, path: Path, tolerant: bool = True) -> None:
        self.error: OSError | None = None
        self._tolerant = tolerant
        self._unread: set[int] = set()
        self._disk = disk
        self._fd = disk.open(path, os.O_RDONLY)
        self._chunk = b""
        self._chunk_at = 0

    def close(self) -> None:
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1

    def be_strict(self) -> None:
        """From now on it is not tolerant. What was read ahead is read again if some of it could not be read."""
        self._tolerant = False
        if self._unread:
            self._chunk = b""

    def size(self) -> int:
        return self._disk.size(self._fd)

    def piece(self, offset: int, size: int, ahead: int = CHUNK_BYTES) -> memoryview:
        """`size` bytes from `offset` on, fewer at the end of the file. Reads `ahead` bytes, if that is more, for later calls."""
        at = offset - self._chunk_at
        if not 0 <= at <= at + size <= len(self._chunk):
            self._chunk, self._chunk_at, at = self._read(offset, size, max(size, ahead)), offset, 0
        return memoryview(self._chunk)[at : at + size]

    def _read(self, offset: int, size: int, most: int) -> bytes:
        try:
            return self._read_all(offset, most)
        except OSError:
            if not self._tolerant:
                return self._read_all(offset, size)
            return b"".join(self._read_page(start, stop) for start, stop in _pages(offset, offset + most))

    def _read_all(self, offset: int, size: int) -> bytes:
        """Mostly one call: a read gives less only at the end of the file, or beyond what the kernel reads at once."""
        content = self._disk.read(self._fd, size, offset)
        while len(content) < size and (more := self._disk.read(self._fd, size - len(content), offset + len(content))):
            content += more
        return content

    def _read_page(self, start: int, stop: int) -> bytes:
        try:
            return self._read_all(start, stop - start)
        except OSError as error:
            self.error = error
            self._unread.add(start // PAGE_BYTES)
            return bytes(stop - start)

    def is_unread(self, start: int, stop: int) -> bool:
        """Whether some of bytes [start, stop) stand in a page that the disk could not read."""
        return any(start < (page + 1) * PAGE_BYTES and page * PAGE_BYTES < stop for page in self._unread)


def _pages(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The parts of bytes [start, stop) that stand in one page each."""
    while start < stop:
        end = min(start - start % PAGE_BYTES + PAGE_BYTES, stop)
        yield start, end
        start = end


class SegmentReader:
    """Reads the records of one segment in order, from `offset` on.

    number  of the next message that may come;  stop, limit: messages from `stop` on and bytes from `limit` on are not looked at
    """

    def __init__(
        self, file: SegmentFile, codec: SegmentCodec, number: int, stop: int, limit: int, offset: int = HEAD_BYTES
    ) -> None:
        self.number = number
        self.offset = offset
        self._file = file
        self._codec = codec
        self._stop = stop
        self._limit = limit

    def extend(self, stop: int, limit: int) -> None:
        """More was written to the segment: `stop` and `limit` are higher now."""
        self._stop, self._limit = stop, limit

    def skip(self, number: int) -> None:
        """Goes on to the record that has the message, by headers alone as far as these are whole."""
        while self.number < number and (header := self._header_at(self.offset)) is not None and header.stop <= number:
            if header.flags & END:
                return
            self.number = header.stop
            self.offset += header.size

    def next(self) -> Whole | Damage | None:
        """The next record, or what is in its place. None at the end."""
        if self.number >= self._stop or self.offset >= self._limit:
            return None
        start = self.offset
        header = self._header_at(start)
        if header is None:
            self.offset = self._find(start + 1)
            return Damage(start, self.offset)
        if header.flags & END:
            self.offset = self._limit
            return None
        self.offset += header.size
        body = self._bytes(start + RECORD_BYTES, header.length)
        if not self._codec.body_is_whole(start, header, body):
            return Damage(start, self.offset)
        self.number = header.stop
        return Whole(start, header, bytes(body))

    def _bytes(self, offset: int, size: int) -> memoryview:
        """Reads nothing behind the limit, where the file may be written anew."""
        return self._file.piece(offset, min(size, self._limit - offset), min(CHUNK_BYTES, self._limit - offset))

    def _header_at(self, offset: int) -> Header | None:
        """A whole header of a record that may stand there."""
        header = self._codec.read(offset, self._bytes(offset, RECORD_BYTES))
        if header is None or header.first < self.number or header.stop > self._stop:
            return None
        return header if offset + header.size <= self._limit else None

    def _find(self, start: int) -> int:
        """Where the next whole header is, at `start` or later; the limit if there is none."""
        while start < self._limit:
            chunk = bytes(self._bytes(start, min(CHUNK_BYTES, self._limit - start)))
            if len(chunk) < len(MARKER):
                break
            at = chunk.find(MARKER)
            while at >= 0:
                if self._header_at(start + at) is not None:
                    return start + at
                at = chunk.find(MARKER, at + 1)
            start += len(chunk) - len(MARKER) + 1
        return self._limit


class BufferFolder:
    """What a buffer's folder has, in the order of the numbers. Reads heads, and the records of segments that are not complete.
    Raises OSError if the folder itself cannot be read.

    identity, key  None if no segment has a whole head: then none of them can be read, and there is nothing in them, as far as
                   the disk gave the heads
    error          why the disk did not give all of them, in words; "" if it did
    """

    def __init__(self, disk: Disk, folder: Path) -> None:
        self.path = folder
        self._disk = disk
        names = disk.names(folder)
        self.names = set(names)
        self.identity: bytes | None = None
        self.key = 0
        self.error = ""
        numbers = segment_numbers(names)
        self._unread_heads: set[int] = set()
        heads = {first: self._head(first) for first in numbers}
        whole = [head for head in heads.values() if head is not None]
        if whole:
            self.identity, self.key = whole[-1].identity, whole[-1].key
        afters = dict(pairwise(numbers))
        begun = {first: head.begun_at for first, head in heads.items() if head is not None}
        looked = (self._look(first, heads[first], afters.get(first)) for first in numbers)
        self.segments = [segment._replace(begun_at=begun.get(segment.first, 0)) for segment in looked]

    def _head(self, first: int) -> Head | None:
        """The head of the segment. None if it is missing or damaged, or if the file is another segment that was renamed."""
        try:
            file = SegmentFile(self._disk, segment_path(self.path, first))
        except OSError as error:
            if not is_lost(error):
                self._unread_heads.add(first)
                self.error = error.strerror or str(error)
            return None
        try:
            head = read_head(bytes(file.piece(0, HEAD_BYTES, HEAD_BYTES)))
        finally:
            file.close()
        if file.error is not None:
            self._unread_heads.add(first)
            self.error = file.error.strerror or str(file.error)
        return head if head is not None and head.first == first else None

    def _look(self, first: int, head: Head | None, after: int | None) -> Segment:
        key = head.key if head is not None else self.key
        codec = SegmentCodec(first, key)
        most = 2**63 if after is None else after
        try:
            file = SegmentFile(self._disk, segment_path(self.path, first))
        except OSError as error:
            if not is_lost(error):
                return Segment(first, first, HEAD_BYTES, self._size_of(first), False, codec, unread=True)
            return Segment(first, _likely_stop(first, after), HEAD_BYTES, 0, False, codec)
        try:
            size = file.size()
            end = size - RECORD_BYTES
            last = codec.read(end, file.piece(end, RECORD_BYTES, 0)) if end >= HEAD_BYTES else None
            if last is not None and last.flags & END and first <= last.first:
                return Segment(first, min(last.first, most), end, size, True, codec, last.attempt == 0)
            if self.identity is None:
                unread = first in self._unread_heads
                begun = unread or size <= HEAD_BYTES or after is None  # a file that was begun, and nothing more
                stop = first if begun else min(_likely_stop(first, after), first + size)
                return Segment(first, stop, 0 if after is None else size, size, False, codec, unread=unread)
            stop, end = self._scan(file, codec, first, most, size)
            if file.error is not None:
                self.error = file.error.strerror or str(file.error)
            return Segment(first, stop, end, size, False, codec, unread=file.error is not None)
        finally:
            file.close()

    def _size_of(self, first: int) -> int:
        try:
            return self._disk.size_of(segment_path(self.path, first))
        except OSError:
            return 0

    @staticmethod
    def _scan(file: SegmentFile, codec: SegmentCodec, first: int, most: int, size: int) -> tuple[int, int]:
        """(the number after the last whole record, where that ends)."""
        reader = SegmentReader(file, codec, first, most, size)
        stop, end = first, min(HEAD_BYTES, size)
        while (found := reader.next()) is not None:
            if isinstance(found, Whole):
                stop, end = found.header.stop, reader.offset
        return stop, end

    def finished(self) -> Iterator[tuple[int, int]]:
        """The ranges of messages that are known to be finished, of all segments."""
        for segment in self.segments:
            path = hints_path(self.path, segment.first)
            if path.name not in self.names:
                continue
            try:
                file = SegmentFile(self._disk, path)
            except OSError:
                continue
            try:
                content = bytes(file.piece(0, file.size()))
            except OSError:
                content = b""
            finally:
                file.close()
            for start, stop in segment.codec.read_hints(content):
                start, stop = max(start, segment.first), min(stop, segment.stop)
                if start < stop:
                    yield start, stop


def _likely_stop(first: int, after: int | None) -> int:
    """Where a segment that cannot be read probably ends: at the first number of the next one, less the numbers that lives have
    skipped between the two."""
    return first if after is None else first + (after - first) % MOST_NUMBERS


def stored_times(disk: Disk, found: BufferFolder, finished: RangeSet) -> Iterator[tuple[int, float]]:
    """(a number, a time in seconds since the epoch at which all below it were stored), in the order of the numbers.

    A segment tells when it was begun, and its file when it was last written to. A quiet link may write to one for days. So the
    oldest unfinished message is taken to have been stored at its origin, if that lies between the two.
    """
    oldest = True
    for segment in found.segments:
        stored = RangeSet()
        stored.add(segment.first, segment.stop)
        wanted = next(stored.minus(finished), None)
        if wanted is None:
            continue
        try:
            modified_at = disk.modified_at(segment_path(found.path, segment.first))
        except OSError:
            continue
        if oldest and (origin := _origin_of(disk, found.path, segment, wanted[0])) is not None:
            yield wanted[0] + 1, min(max(origin, segment.begun_at), modified_at)
        oldest = False
        yield segment.stop, modified_at


def _origin_of(disk: Disk, folder: Path, segment: Segment, number: int) -> float | None:
    """The origin of a message; None if it cannot be read."""
    try:
        file = SegmentFile(disk, segment_path(folder, segment.first))
    except OSError:
        return None
    try:
        reader = SegmentReader(file, segment.codec, segment.first, segment.stop, segment.end)
        reader.skip(number)
        one = reader.next()
        if not isinstance(one, Whole) or not one.header.first <= number < one.header.stop:
            return None
        return section.decode(one.body, one.header.messages).filled().origins[number - one.header.first]
    except PeerError:
        return None
    finally:
        file.close()


def is_cut_off(disk: Disk, folder: Path, segment: Segment) -> bool:
    """Whether what is behind its records is the beginning of another one: a write that was under way when its process ended,
    and no damage."""
    if segment.bytes - segment.end < RECORD_BYTES:
        return True
    try:
        file = SegmentFile(disk, segment_path(folder, segment.first))
    except OSError:
        return False
    try:
        header = segment.codec.read(segment.end, file.piece(segment.end, RECORD_BYTES))
    finally:
        file.close()
    return header is not None and segment.end + header.size > segment.bytes


def is_lost(error: OSError) -> bool:
    """Whether a segment that cannot be opened for this reason never will be. Otherwise it is kept, and tried again."""
    return error.errno in _LOST
