"""The bytes of a disk buffer's files: a segment's head, its records, and the hints of what is finished.

May live here: making and checking these bytes. Must not live here: files, and which messages are stored.

A segment is named by the number of its first message. It has its head twice, then records one after another, and a last record
without messages once it is complete. A record is

    marker, checksum of the header, checksum of the body, length of the body, messages, number of the first, attempt, flags, body

Both checksums begin with the place: the segment, the offset, and a secret key of the buffer. So a record counts only where it
was written: even a payload that is a copy of such a file is not taken for records when, after damage, the next header is looked
for. The header has a checksum of its own, so that its length can be trusted where the body is damaged,
and a false marker costs no more than 24 bytes of checksum.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from zpipe.core.wire.cbor import Encoded

MARKER = b"\xa9zpR"
"""The first byte is a continuation of UTF-8, so no text begins with it, and in CBOR and MessagePack it opens a string or map."""
RECORD_BYTES = 32
"""Bytes of a record besides its body."""
HEAD_BYTES = 128
"""Both copies of a segment's head: one that is damaged loses nothing."""
END = 1
"""The flag of a segment's last record, which has no messages; its number is the first that is in no record of the segment."""
MAX_ATTEMPT = 0xFFFF
IDENTITY_BYTES = 16

_MAGIC = b"zpipeseg"
_VERSION = 1
_HEAD = Struct("<8sIQ16sIQ12x")
_CHECKSUM = Struct("<I")
_RECORD = Struct("<4sI")
_FIELDS = Struct("<IIIQHH")
_HINT = Struct("<QQ")
HINT_BYTES = _HINT.size + _CHECKSUM.size


class Head(NamedTuple):
    """identity  names the sequence of numbers, which all segments of a buffer share
    key       the secret part of all checksums
    begun_at  when, in seconds since the epoch; for people alone"""

    first: int
    identity: bytes
    key: int
    begun_at: int


class Header(NamedTuple):
    """What a record says before its body. `body_checksum` is for `body_is_whole`."""

    first: int
    messages: int
    attempt: int
    flags: int
    length: int
    body_checksum: int

    @property
    def stop(self) -> int:
        return self.first + self.messages

    @property
    def size(self) -> int:
        """Bytes of the whole record."""
        return RECORD_BYTES + self.length


def write_head(head: Head) -> bytes:
    packed = _HEAD.pack(_MAGIC, _VERSION, *head)
    return (packed + _CHECKSUM.pack(zlib.crc32(packed))) * 2


def read_head(content: bytes) -> Head | None:
    """From the first HEAD_BYTES of a segment; None if neither copy is whole."""
    half = HEAD_BYTES // 2
    for copy in (content[:half], content[half:HEAD_BYTES]):
        if len(copy) == half and _CHECKSUM.unpack(copy[_HEAD.size :])[0] == zlib.crc32(copy[: _HEAD.size]):
            magic, version, *fields = _HEAD.unpack(copy[: _HEAD.size])
            if magic == _MAGIC and version == _VERSION:
                return Head(*fields)
    return None


class SegmentCodec:
    """Writes and reads the records of the segment that begins with message `first`, with the buffer's `key`."""

    __slots__ = ("_seed",)

    def __init__(self, first: int, key: int) -> None:
        self._seed = zlib.crc32(first.to_bytes(8, "little"), key)

    def write(self, offset: int, first: int, count: int, attempt: int, body: Encoded, flags: int = 0) -> bytes:
        """The header of a record that will be at `offset`; the body follows it as it is."""
        place = self._seed + offset & 0xFFFFFFFF
        fields = _FIELDS.pack(zlib.crc32(body, place), len(body), count, first, min(attempt, MAX_ATTEMPT), flags)
        return _RECORD.pack(MARKER, zlib.crc32(fields, place)) + fields

    def write_end(self, offset: int, stop: int, orderly: bool = True) -> bytes:
        """The last record of a complete segment. `orderly`: the life that wrote the other records writes it, not a later one,
        which cannot know how many there were."""
        return self.write(offset, stop, 0, 0 if orderly else 1, b"", END)

    def read(self, offset: int, header: Encoded) -> Header | None:
        """The header at `offset` (RECORD_BYTES); None if it is none, or damaged."""
        try:
            marker, checksum = _RECORD.unpack(header[: _RECORD.size])
            fields = header[_RECORD.size : RECORD_BYTES]
            if marker != MARKER or zlib.crc32(fields, self._seed + offset & 0xFFFFFFFF) != checksum:
                return None
            body_checksum, length, count, first, attempt, flags = _FIELDS.unpack(fields)
        except StructError:  # cut off
            return None
        if not (count and not flags) and not (flags == END and not count and not length):
            return None
        return Header(first, count, attempt, flags, length, body_checksum)

    def body_is_whole(self, offset: int, header: Header, body: Encoded) -> bool:
        """Whether these are the bytes that were written after the header at `offset`."""
        return len(body) == header.length and zlib.crc32(body, self._seed + offset & 0xFFFFFFFF) == header.body_checksum

    def write_hint(self, start: int, stop: int) -> bytes:
        """An entry of the segment's hints: messages [start, stop) are finished."""
        entry = _HINT.pack(start, stop)
        return entry + _CHECKSUM.pack(zlib.crc32(entry, self._seed))

    def read_hints(self, content: bytes) -> Iterator[tuple[int, int]]:
        """The ranges of all entries that are whole."""
        for at in range(0, len(content) - HINT_BYTES + 1, HINT_BYTES):
            entry = content[at : at + _HINT.size]
            if zlib.crc32(entry, self._seed) == _CHECKSUM.unpack_from(content, at + _HINT.size)[0]:
                start, stop = _HINT.unpack(entry)
                if start < stop:
                    yield start, stop
