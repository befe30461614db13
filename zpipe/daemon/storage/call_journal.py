"""Which calls of the plugin are under way, in a file that can be read after the process has died. Must not live here: what that
death means for a message.

The file is mapped into memory: a note costs one write to memory, and what a killed process has written there is still in the
kernel's page cache. It is not synced, so after a loss of power no message is suspected.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from zpipe.core.upstream.upstreams import SuspectedCalls
from zpipe.core.wire import msgpack
from zpipe.core.work.delivery import Producer, Slice
from zpipe.core.work.task import Task
from zpipe.errors import PeerError

STORE = "", "", 0
"""In place of a producer, for messages that are dead letters of this instance. Their numbers are those of the letters."""
NONE, ALL = 0, 0xFFFFFFFF
"""A note is n + 1 for a call with message n of the task. Besides: no call is under way, or one for a whole batch."""
SLOT_BYTES, SLOTS_BYTES, LEAST_SLOT_BYTES = 64 * 1024, 4 * 1024 * 1024, 1024
"""The most for one worker, the most for all, and the least for one: a thousand calls at a time have one message each."""
BETWEEN_IDS = "\0"
HEAD_BYTES = 12
"""Three numbers: the note, the bytes of the messages, the bytes of a slot."""

EACH = slice(None)
"""All slices of a task."""
Note = memoryview
"""Memory of one unsigned number of 32 bits, `note[0]`, which says what the worker calls the plugin for."""


def slot_bytes(slots: int) -> int:
    """A worker's part of the file, when there are so many."""
    return max(LEAST_SLOT_BYTES, min(SLOT_BYTES, SLOTS_BYTES // max(slots, 1) // LEAST_SLOT_BYTES * LEAST_SLOT_BYTES))


class CallJournal:
    """The notes of a process's workers, a slot each. Raises OSError if the file cannot be made."""

    def __init__(self, path: Path, slots: int) -> None:
        size = slot_bytes(slots)
        with path.open("w+b") as file:
            # Not sparse: writing to a mapped page for which the disk has no room any more would end the process (SIGBUS).
            os.posix_fallocate(file.fileno(), 0, slots * size)
            self._map = mmap.mmap(file.fileno(), slots * size)
        self._slots = [CallSlot(memoryview(self._map)[at * size : (at + 1) * size]) for at in range(slots)]

    def slot(self, number: int) -> CallSlot:
        return self._slots[number]


class CallSlot:
    """One worker's part of the journal: messages of its task, and the note of which one it calls for."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._room_bytes = len(view) - HEAD_BYTES
        self.note: Note = view[:4].cast("I")
        self._size: Note = view[4:8].cast("I")
        view[8:12].cast("I")[0] = len(view)
        self._producer: Producer | None = None
        self._begins: list[Any] = []  # what each row of this producer begins with

    def begin(self, task: Task, named: slice = EACH) -> None:
        """Writes down the messages of the slices `named` before the calls for them; their ids are decoded already. If there is no
        room for all, the ids are left out. Messages that do not fit even then are never suspected."""
        before = sum(piece.count for piece in task.slices[: named.start]) if named.start else 0
        rows = [self._row(piece) for piece in task.slices[named]]
        encoded = msgpack.write([before, *rows])
        if (size := len(encoded)) > self._room_bytes:
            rows = [[*row[:-1], ""] for row in rows]
            while (size := len(encoded := msgpack.write([before, *rows]))) > self._room_bytes:
                rows = rows[: len(rows) // 2]
        self._view[HEAD_BYTES : HEAD_BYTES + size] = encoded
        self._size[0] = size

    def _row(self, piece: Slice) -> list[Any]:
        """[stage, outlet, instance, incarnation of its producer, number of its first message, messages, their ids]."""
        if piece.delivery.producer is not self._producer or not self._begins:
            self._producer = piece.delivery.producer
            producer, incarnation = producer_of(piece)
            self._begins = [*producer, incarnation]
        # The ids as one text cost 8 ns each to encode, against 60 as a list.
        return [*self._begins, piece.section.first + piece.start, piece.count, BETWEEN_IDS.join(piece.ids())]

    def end(self) -> None:
        self.note[0] = NONE


def producer_of(piece: Slice) -> tuple[tuple[str, str, int], str]:
    """The producer that numbered the messages, (stage, outlet, instance), and what names the sequence of its numbers."""
    producer = piece.delivery.producer
    return (STORE, "") if producer is None else (producer[:3], producer.sequence)


class _Call(NamedTuple):
    """`before`: so many messages of the task come before those of the rows."""

    before: int
    rows: list[list[Any]]
    note: int

    def messages(self) -> Iterator[tuple[tuple[str, str, int], str, int, str]]:
        """(producer, its incarnation, number, id or "") of each message that was in the call."""
        at = self.before
        for stage, outlet, instance, incarnation, first, count, text in self.rows:
            ids = text.split(BETWEEN_IDS)
            if len(ids) != count:  # they were left out, or one of them contains BETWEEN_IDS
                ids = [""] * count
            for number, id in zip(range(first, first + count), ids, strict=True):
                at += 1
                if self.note in (ALL, at):
                    yield (stage, outlet, instance), incarnation, number, id


def in_call(path: Path) -> tuple[SuspectedCalls, list[str]]:
    """What was in a call when the process that kept the journal died, and the ids of those messages as far as they are known.
    Nothing, if it ended in order or the journal cannot be read."""
    try:
        found = [message for call in _read(path.read_bytes()) for message in call.messages()]
    except (OSError, PeerError, ValueError, TypeError, AttributeError):
        return {}, []
    alone = int(len(found) == 1)
    by_producer: SuspectedCalls = {}
    for producer, incarnation, number, _ in found:
        _, rows = by_producer.setdefault(producer, (incarnation, []))
        rows.append([number, number + 1, alone])
    return by_producer, [id for *_, id in found if id]


def _read(content: bytes) -> Iterator[_Call]:
    at = 0
    while at + HEAD_BYTES <= len(content):
        note, size, slot = memoryview(content)[at : at + HEAD_BYTES].cast("I")
        if note != NONE:
            start = at + HEAD_BYTES
            before, *rows = msgpack.read(content[start : start + size])
            yield _Call(before, rows, note)
        at += max(slot, LEAST_SLOT_BYTES)
