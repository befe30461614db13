"""A parcel as it lies in a stream: one NATS message with a small head, and the sections as they are.

    head      4 bytes, most significant first: the length of the CBOR that follows
    rows      CBOR: [version, [[messages, bytes], …]], a row for each section
    bodies    the sections, one after another

Making and checking these bytes belongs here. Must not live here: when a parcel is cut, or asked for. Messages are numbered by the
sequence that the stream gives to the parcel: the same number stands for the same message whoever gets it, and however often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zpipe.core.policy import KIB, MIB
from zpipe.core.wire import cbor
from zpipe.core.wire.section import Section
from zpipe.errors import PeerError

VERSION = 1
HEAD_BYTES = 4
MOST_SECTIONS = 512
MOST_MESSAGES = 1024
"""The most of one parcel, whatever the config says: the numbers of messages are computed with it."""
BODY_BYTES = 1 * MIB - 8 * KIB
"""The most that a parcel's sections have together. A server takes messages of 1 MiB, and 512 rows have 5 KiB at most."""


def join(sections: Sequence[Section]) -> bytes:
    """The payload. The body of each section must have been asked for, so that its size is exact."""
    bodies = [section.body() for section in sections]
    rows = cbor.write([VERSION, [[section.count, section.size] for section in sections]])
    return b"".join([len(rows).to_bytes(HEAD_BYTES, "big"), rows, *bodies])


def part(payload: bytes, sequence: int, attempt: int) -> list[Section]:
    """The sections of the parcel that has that place in its stream. Raises PeerError if the bytes are not a parcel's."""
    start = HEAD_BYTES + int.from_bytes(payload[:HEAD_BYTES], "big")
    if len(payload) < start:
        raise PeerError("a parcel is shorter than its head says")
    rows = _rows(cbor.read(payload[HEAD_BYTES:start], 4 * MOST_SECTIONS))
    body, at, first, sections = memoryview(payload), start, sequence * MOST_MESSAGES, []
    for messages, size in rows:
        sections.append(Section(bytes(body[at : at + size]), messages, first, attempt))
        at, first = at + size, first + messages
    if at != len(payload) or first > (sequence + 1) * MOST_MESSAGES:
        raise PeerError("the sections of a parcel do not add up")
    return sections


def _rows(head: Any) -> list[list[int]]:
    if type(head) is not list or len(head) != 2 or head[0] != VERSION:
        raise PeerError(f"a parcel is of version {VERSION}")
    rows = head[1]
    if type(rows) is not list or not 0 < len(rows) <= MOST_SECTIONS or not all(map(_is_row, rows)):
        raise PeerError("a parcel has a row of messages and bytes for each section")
    return rows


def _is_row(row: Any) -> bool:
    return type(row) is list and len(row) == 2 and all(type(one) is int and 0 < one < 1 << 31 for one in row)
