"""What a disk buffer asks of its segment log, what it hears of it, and what is found when the log is opened.

May live here: these values alone. The log (`daemon/storage/segment_log.py`) carries the orders out on a thread of its own.
"""

from __future__ import annotations

from typing import NamedTuple

from zpipe.core.wire.cbor import Encoded


class Append(NamedTuple):
    """Store so many messages, from number `first` on. Numbers only rise. Answered by `Durable`, with others that waited."""

    first: int
    messages: int
    attempt: int
    body: Encoded


class Read(NamedTuple):
    """Read what is durable from message `number` on: up to `most_bytes`, but at least one record. Answered by `Records`."""

    number: int
    most_bytes: int


class Finish(NamedTuple):
    """Messages [start, stop) are finished: a hint for the next life, written some time later, and answered by `Noted`."""

    start: int
    stop: int


class Remove(NamedTuple):
    """Nothing in these segments is needed any more (first numbers). Answered by `Removed`."""

    segments: tuple[int, ...]


Order = Append | Read | Finish | Remove


class Durable(NamedTuple):
    """All messages numbered below `stop` survive a loss of power.

    segments    first numbers of those that were begun since the last of these
    disk_bytes  of all segments;  write_s, sync_s: what the writes and the last fdatasync took
    """

    stop: int
    segments: tuple[int, ...]
    disk_bytes: int
    write_s: float = 0.0
    sync_s: float = 0.0


class StoredRecord(NamedTuple):
    first: int
    messages: int
    attempt: int
    body: bytes


class Records(NamedTuple):
    """All that can be read of messages [number, next_number), in order.

    bad         damaged places that were passed over
    unreadable  ranges that may be read another time: the disk does not give them now
    """

    number: int
    next_number: int
    records: tuple[StoredRecord, ...]
    bad: int = 0
    unreadable: tuple[tuple[int, int], ...] = ()


class Removed(NamedTuple):
    segments: tuple[int, ...]
    disk_bytes: int


class Noted(NamedTuple):
    """These ranges are finished, and the next life knows it, unless the power is lost."""

    ranges: tuple[tuple[int, int], ...]


class Space(NamedTuple):
    """Whether the log is `taking` more. `trouble`: why it cannot write or, if it is taking, why it cannot read; "" if it can do
    both. It keeps what it was given before, and tries again."""

    taking: bool
    trouble: str = ""


BufferEvent = Durable | Records | Removed | Noted | Space


class FoundSegment(NamedTuple):
    """It has messages [first, stop), as far as they can be read. `kept`: it may have more, for another life to read."""

    first: int
    stop: int
    bytes: int
    kept: bool = False


class FoundBuffer(NamedTuple):
    """What an instance finds in the files when it opens the log.

    identity     names the sequence of numbers, also to consumers: 32 hexadecimal digits, the same in every life
    next_number  the first that has not been used
    finished     ranges of messages that need not be sent again, as far as that is known
    unreadable   ranges of numbers that may have messages, which the disk does not give this life
    stored_at    (a number, when all below it were stored at the latest) by the clock of `now`, in the order of the numbers
    torn_bytes   cut off at the end of the last segment
    bad_files    damaged places that are kept in the folder `bad`, of this life and those before
    """

    identity: str
    next_number: int = 1
    segments: tuple[FoundSegment, ...] = ()
    finished: tuple[tuple[int, int], ...] = ()
    disk_bytes: int = 0
    torn_bytes: int = 0
    bad_files: int = 0
    space: Space = Space(True)
    unreadable: tuple[tuple[int, int], ...] = ()
    stored_at: tuple[tuple[int, float], ...] = ()
