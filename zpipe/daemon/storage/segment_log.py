"""The segment log of a disk buffer: a thread that carries out what the buffer orders, many at once.

Must not live here: what is in the files (`segment_writer`, `ahead_reader`), and which messages are wanted (`core/buffer`).

Group commit: everything that waits is written by few calls and made durable by one fdatasync, and what comes meanwhile waits
for the next one. So the log is as fast as the disk whether one message waits or a thousand, and needs no timer for that.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import Empty, SimpleQueue

from zpipe.core.buffer.orders import (
    Append,
    BufferEvent,
    Durable,
    Finish,
    FoundBuffer,
    Noted,
    Order,
    Read,
    Removed,
    Space,
)
from zpipe.core.policy import BufferPolicy
from zpipe.core.ranges import RangeSet
from zpipe.daemon.outages import NEVER, RETRY_S
from zpipe.daemon.storage.ahead_reader import READ_TRIES, AheadReader
from zpipe.daemon.storage.segment_writer import SegmentWriter
from zpipe.runtime.segment_folder import Disk

HINTS_S = 0.1
"""Finished ranges are noted this often at most. What is not noted when the process is killed is sent again, and consumers pass it
over, since they keep its numbers until it is noted."""
SPACE_S = 1.0
"""The room on the disk is looked at this often, while something is written or there was too little."""
UNREADABLE_RETRY_S = 30.0
"""After READ_TRIES failed reads, if nothing behind the bad page can be read either, reading is tried again this often."""


class SegmentLog:
    """`heard` is called on the log's thread with each event.

    `open`, then `start`, then `perform` as often as wanted, then `close`. A test may call `turn` in place of the thread.
    """

    def __init__(
        self, folder: Path, policy: BufferPolicy, heard: Callable[[BufferEvent], None], disk: Disk | None = None
    ) -> None:
        disk = disk or Disk()
        self._folder = folder
        self._policy = policy
        self._heard = heard
        self._disk = disk
        self._writer = SegmentWriter(disk, folder, policy.segment_bytes)
        self._reader = AheadReader(disk, folder, self._writer)
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="zpipe-buffer", daemon=True)
        self._appends: deque[Append] = deque()
        self._read: Read | None = None
        self._hints = RangeSet()
        self._removals: list[int] = []
        self._space = Space(True)
        self._failing = ""
        self._low = ""
        self._unremoved = ""
        self._unread = ""
        self._unreadable = ""
        self._retry_at = 0.0
        self._read_at = 0.0
        self._sync_at = 0.0
        self._hints_at = 0.0
        self._space_at = 0.0
        self._write_s = 0.0

    # ---- from the thread that has the loop

    def open(self) -> FoundBuffer:
        """Reads what the last life left (1 GB: some ten milliseconds). Blocks. Raises OperatorError if the folder cannot be
        listed, and for nothing that is in it: neither a damaged file nor a disk that is full or read-only keeps a stage
        from starting."""
        found = self._writer.open()
        self._look_at_space()
        if kept := [one for one in found.segments if one.kept]:
            self._note_unreadable(f"{len(kept)} files", self._writer.error)
        self._space = self._space_now()
        ago = time.monotonic() - time.time()
        stored_at = tuple((number, at + ago) for number, at in self._writer.stored_times)
        return found._replace(space=self._space, stored_at=stored_at)

    def start(self) -> None:
        self._thread.start()

    def perform(self, order: Order) -> None:
        """Has the thread carry it out. Does not block, and raises nothing."""
        self._orders.put(order)

    def close(self) -> None:
        """Writes and syncs what waits, if the disk works, and ends the thread. Blocks for as long as that takes."""
        self._orders.put(None)
        if self._thread.is_alive():
            self._thread.join()
        elif self._thread.ident is None:
            self._finish()

    # ---- on the log's own thread

    def _work(self) -> None:
        deadline = self._next_at(time.monotonic())  # a disk that was full when it was opened is looked at again
        closing = False
        while not closing:
            orders: list[Order] = []
            for order in self._taken(deadline - time.monotonic()):
                if order is None:
                    closing = True
                else:
                    orders.append(order)
            try:
                deadline = self.turn(orders, time.monotonic())
            except Exception as error:
                # A fault of this program: the stage takes nothing more, and its trouble says why.
                self._heard(Space(False, f"the disk buffer {self._folder} has ended: {error!r}"))
                raise
        self._finish()

    def _taken(self, wait_s: float) -> Iterable[Order | None]:
        """All orders that are there. Waits for one, but not for longer than that."""
        try:
            yield self._orders.get(wait_s > 0, None if wait_s == NEVER else max(wait_s, 0.0))
            while True:
                yield self._orders.get_nowait()
        except Empty:
            return

    def turn(self, orders: Iterable[Order], now: float) -> float:
        """Carries these out, and what is due besides. Returns when it is to be called again although nothing was ordered."""
        self._take(orders)
        self._read_ahead(now)
        if now >= self._retry_at:
            try:
                self._attempt(now)
            except OSError as error:
                self._failing = f"cannot use the disk buffer {self._folder}: {error.strerror or error}"
                self._retry_at = now + RETRY_S
            else:
                self._failing = ""
            self._say_begun()
        self._say_space(now)
        return self._next_at(now)

    def _take(self, orders: Iterable[Order]) -> None:
        for order in orders:
            if isinstance(order, Append):
                self._appends.append(order)
            elif isinstance(order, Finish):
                self._hints.add(order.start, order.stop)
            elif isinstance(order, Read):
                self._read = order
            else:
                self._removals += order.segments

    def _read_ahead(self, now: float) -> None:
        """Carries out an order to read, if there is one. A failure to read keeps nothing from being written, nor the reverse."""
        if self._read is None or now < self._read_at:
            return
        try:
            records = self._reader.read(*self._read)
        except OSError as error:
            what = (
                f"{self._folder / Path(error.filename).name}" if error.filename else f"the disk buffer {self._folder}"
            )
            self._unread = f"cannot read {what}, and tries again: {error.strerror or error}"
            self._read_at = now + (RETRY_S if self._reader.failures <= READ_TRIES else UNREADABLE_RETRY_S)
            return
        self._read, self._unread = None, ""
        if records.unreadable:
            messages = sum(stop - start for start, stop in records.unreadable)
            self._note_unreadable(f"{messages:,} messages", "an error of the disk")
        self._heard(records)

    def _note_unreadable(self, what: str, why: str) -> None:
        hint = "they are kept, and read again at the next start"
        self._unreadable = f"cannot read {what} of the disk buffer {self._folder}: {why}; {hint}"

    def _attempt(self, now: float) -> None:
        """Does all that is due. Raises OSError if some of it cannot be done, which is kept for the next attempt. What is finished
        is removed before more is written."""
        self._remove()
        self._write(now)
        if self._hints and now >= self._hints_at:
            self._write_hints(now)

    def _remove(self) -> None:
        """Removes segments. Does not raise: what cannot be removed is tried again, and must not hold up anything else."""
        kept = []
        gone = []
        for first in self._removals:
            self._reader.release(first)
            try:
                self._writer.remove(first)
            except OSError as error:
                kept.append(first)
                self._unremoved = error.strerror or str(error)
            else:
                gone.append(first)
        self._removals = kept
        if not kept:
            self._unremoved = ""
        if gone:
            self._heard(Removed(tuple(gone), self._writer.disk_bytes))

    def _write(self, now: float) -> None:
        if not self._appends:
            return
        began = time.perf_counter()
        try:
            unwritten = [one for one in self._appends if one.first >= self._writer.next_number]
            if unwritten:
                self._writer.write(unwritten)
            self._write_s += time.perf_counter() - began
            if now >= self._sync_at:
                began = time.perf_counter()
                self._writer.sync()
                self._sync_at = now + self._policy.sync_s
                self._say_durable(time.perf_counter() - began)
        finally:
            self._say_durable()

    def _say_durable(self, sync_s: float = 0.0) -> None:
        """Tells what is durable since the last time, which may be some of what was to be written although the rest failed."""
        durable = self._writer.durable_number
        if not self._appends or self._appends[0].first >= durable:
            return
        while self._appends and self._appends[0].first < durable:
            self._appends.popleft()
        begun = self._take_begun()
        self._heard(Durable(durable, begun, self._writer.disk_bytes, self._write_s, sync_s))
        self._write_s = 0.0

    def _take_begun(self) -> tuple[int, ...]:
        begun = tuple(self._writer.begun)
        self._writer.begun.clear()
        for first in begun:  # it may have the name of one that was given up
            self._reader.release(first)
        return begun

    def _say_begun(self) -> None:
        """Tells of a segment that a removal has begun, for which there is no `Durable` with messages."""
        if self._writer.begun and not self._appends:
            self._heard(Durable(self._writer.durable_number, self._take_begun(), self._writer.disk_bytes))

    def _write_hints(self, now: float) -> None:
        """A failure is not reported: hints that are not written mean duplicates and no loss, and records will fail likewise."""
        self._hints_at = now + HINTS_S
        hints, self._hints = self._hints, RangeSet()
        try:
            self._writer.write_hints(hints)
        except OSError:
            for start, stop in hints:
                self._hints.add(start, stop)
            self._hints_at = now + RETRY_S
            return
        self._heard(Noted(tuple(hints)))

    # ---- room on the disk

    def _say_space(self, now: float) -> None:
        if now >= self._space_at and (self._appends or self._low or self._sync_at >= self._space_at):
            self._space_at = now + SPACE_S
            self._look_at_space()
        space = self._space_now()
        if space != self._space:
            self._space = space
            self._heard(space)

    def _space_now(self) -> Space:
        full = self._failing or self._low
        if self._low and self._unremoved:
            full += f"; what is finished there cannot be removed: {self._unremoved}"
        return Space(not full, full or self._unread or self._unreadable)

    def _look_at_space(self) -> None:
        try:
            free, total = self._disk.space(self._folder)
        except OSError as error:
            self._low = f"cannot use the disk buffer {self._folder}: {error.strerror or error}"
            return
        least = self._policy.left_bytes(total)
        self._low = ""
        if free < least:
            has = f"has {free >> 20:,} MiB left, and {least >> 20:,} MiB are left to others"
            self._low = f"the disk of {self._folder} {has}: it goes on when there is room"

    # ---- time

    def _next_at(self, now: float) -> float:
        at = NEVER if self._read is None else self._read_at
        if self._failing and now < self._retry_at:
            return min(at, self._retry_at)
        if self._appends:
            at = min(at, self._sync_at)
        if self._hints:
            at = min(at, self._hints_at)
        if self._low:
            at = min(at, self._space_at)
        if self._removals:
            at = min(at, now + RETRY_S)
        return at

    def _finish(self) -> None:
        """Tries once to write what waits, and closes the files."""
        self._sync_at = self._hints_at = self._retry_at = 0.0
        self._read = None
        self.turn((), time.monotonic())
        self._reader.close()
        self._writer.close()
