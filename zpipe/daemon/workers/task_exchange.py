"""What passes between the daemon and a worker process: tasks, results, and which message the plugin is called for. Must not live
here: who gets which task, and what becomes of a result.

A frame on the socket pair is the length of its head (4 bytes), the head as CBOR ([value, [length of each body]]), and the bodies.
Sections go as the bytes they came as, so nothing is decoded in the daemon. Both ends are on one machine and of one version, so
this is no protocol. But what comes from a process that may be broken is read as strictly as what comes from a peer.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct
from array import array
from collections.abc import Callable, Sequence
from select import POLLIN, POLLOUT
from typing import Any

from zpipe.core.ledger import Owners
from zpipe.core.wire import cbor
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Slice
from zpipe.core.work.task import CallHistory, Chunk, Failure, Result, Task, Verdict
from zpipe.daemon.storage.call_journal import Note
from zpipe.errors import PeerError
from zpipe.plugin_metrics import LARGEST, SMALLEST

TASK, GO_ON, START, CLOSE = "task", "go_on", "start", "close"
READY, FAILED, EARLY, RESULT = "ready", "failed", "early", "result"
Frame = tuple[Any, list[bytes]]

DUMP = signal.SIGRTMAX
"""The signal that has a worker write a traceback of where it is: the one that plugins are least likely to use."""
NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGTERM)
"""The daemon tells a worker when to end. Until then it wants results."""
NOT_BEGUN = 0xFFFFFFFE
"""In a call note, written by the daemon: the worker has not had the task yet."""
_NOTE_BYTES = 4
_OWNERS = "I"
MOST_HEAD_BYTES, MOST_BODY_BYTES = 1 << 28, 1 << 31
_LENGTH = struct.Struct("!I")


class Pipe:
    """`wait(events)` is called where the socket would block. It returns when trying again makes sense."""

    def __init__(self, end: socket.socket, wait: Callable[[int], None] | None = None) -> None:
        self._socket = end
        self._wait = wait
        end.setblocking(wait is None)

    def send(self, value: Any, bodies: Sequence[bytes] = ()) -> None:
        """Blocks until all is written. Raises OSError if the other end is closed."""
        head = cbor.write([value, list(map(len, bodies))])
        left = memoryview(b"".join((_LENGTH.pack(len(head)), head, *bodies)))
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                self._pause(POLLOUT)

    def receive(self) -> tuple[Any, list[bytes]]:
        """Blocks until a whole frame is there. Raises EOFError or OSError at the end, PeerError if it is no frame."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > MOST_HEAD_BYTES:
            raise PeerError(f"a head of {length} bytes")
        frame = cbor.read(self._exactly(length))
        match frame:
            case [value, list(sizes)] if all(type(size) is int and 0 <= size <= MOST_BODY_BYTES for size in sizes):
                return value, [self._exactly(size) for size in sizes]
        raise PeerError("a frame's head is its value and the lengths of its bodies")

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            try:
                part = self._socket.recv(size)
            except BlockingIOError:
                self._pause(POLLIN)
                continue
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _pause(self, events: int) -> None:
        assert self._wait is not None
        self._wait(events)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


class CallNote:
    """The note of `call_journal` for one worker process, in memory that both ends see. `note[0]` is the number."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, _NOTE_BYTES)
        self.note: Note = memoryview(self._map).cast("I")

    def begin(self, task: Task, named: slice) -> None:
        """The daemon knows what it has given to the worker."""

    def close(self) -> None:
        self.note.release()
        self._map.close()


def note_memory() -> int:
    """A descriptor of new memory for a note."""
    fd = os.memfd_create("zpipe-call")
    os.ftruncate(fd, _NOTE_BYTES)
    return fd


class TaskSender:
    """Makes the frames of tasks in the daemon. It knows which section the worker has, so one that was cut into tasks is sent
    once."""

    def __init__(self) -> None:
        self._sent: Section | None = None

    def frame(self, task: Task) -> Frame:
        rows, bodies = [], []
        for piece in task.slices:
            section = piece.section
            known = section is self._sent
            if not known:
                bodies.append(section.body())
                self._sent = section
            rows.append([section.count, piece.start, piece.stop, section.attempt, known, piece.delivery.source])
        return [TASK, task.number, task.batch, task.attempt, rows], bodies


class TaskReader:
    """Reads the frames of tasks in the worker."""

    def __init__(self) -> None:
        self._section = Section(b"", 0)
        # Nothing is acked here: a delivery is only what a slice has to have.
        self._deliveries: dict[str, Delivery] = {}

    def task(self, value: list[Any], bodies: list[bytes]) -> Task:
        _, number, batch, attempt, rows = value
        left = iter(bodies)
        slices = []
        for count, start, stop, redelivery, known, source in rows:
            if not known:
                self._section = Section(next(left), count, attempt=redelivery)
            slices.append(Slice(self._delivery(source), self._section, 0, start, stop, 0.0))
        return Task(number, slices, CallHistory(attempts=attempt - 1), batch)

    def _delivery(self, source: str) -> Delivery:
        if source not in self._deliveries:
            self._deliveries[source] = Delivery([], lambda delivery: None, source=source)
        return self._deliveries[source]


def result_frame(task: Task, result: Result, metrics: list[list[Any]]) -> Frame:
    """`metrics`: how the plugin's metrics have changed since the frame before."""
    rows, bodies = _pack(result.chunks)
    failures = [[f.index, f.reason, f.traceback, f.verdict.value, f.delay_s] for f in result.failures]
    return [RESULT, task.number, rows, result.filtered, failures, result.seconds, result.ages, metrics], bodies


def early_frame(task: Task, chunks: list[Chunk]) -> Frame:
    rows, bodies = _pack(chunks)
    return [EARLY, task.number, rows], bodies


def read_result(task: Task, value: list[Any], bodies: list[bytes]) -> Result:
    """Raises PeerError for what no sound worker sends. A plugin may have forked, or written into the pipe."""
    try:
        _, number, rows, filtered, failures, seconds, ages, _ = value
        found = [
            Failure(index, reason, text, Verdict(verdict), delay_s)
            for index, reason, text, verdict, delay_s in failures
        ]
    except (TypeError, ValueError) as error:
        raise PeerError(f"not a result: {error}") from None
    indexes = [failure.index for failure in found]
    if len(set(indexes)) < len(indexes) or not all(_within(index, task.count - 1) for index in indexes):
        raise PeerError("failures of messages that the task does not have")
    if not _within(filtered, task.count - len(found)):
        raise PeerError(f"{filtered} of {task.count} messages filtered")
    if not all(isinstance(number, int | float) and number >= 0 for number in (seconds, *ages)):
        raise PeerError("times that are no numbers of seconds")
    return Result(_read_chunks(task, number, rows, bodies), filtered, found, seconds, ages)


def read_metrics(value: list[Any]) -> list[list[Any]]:
    """The changes of a plugin's metrics: the last item of RESULT and of READY. Raises PeerError if they are none."""
    rows = value[-1]
    if not isinstance(rows, list) or not all(isinstance(row, list) and _is_change(row) for row in rows):
        raise PeerError("changes of metrics that are none")
    return rows


def _is_change(row: list[Any]) -> bool:
    match row:
        case ["counter", str(), [float()]] | ["gauge", str(), [float() | None, float()]]:
            return True
        case ["histogram", str(), [float(), list(buckets)]]:
            return all(isinstance(bucket, list) and _is_bucket(*bucket) for bucket in buckets)
    return False


def _is_bucket(power: Any = None, messages: Any = None, *more: Any) -> bool:
    return type(power) is type(messages) is int and SMALLEST <= power <= LARGEST + 1 and messages > 0 and not more


def read_early(task: Task, value: list[Any], bodies: list[bytes]) -> list[Chunk]:
    """Raises PeerError likewise."""
    if len(value) != 3 or value[0] != EARLY:
        raise PeerError("neither a result nor outputs")
    return _read_chunks(task, value[1], value[2], bodies)


def _read_chunks(task: Task, number: int, rows: list[Any], bodies: list[bytes]) -> list[Chunk]:
    if number != task.number:
        raise PeerError(f"an answer to task {number}, not to {task.number}")
    try:
        chunks = [
            Chunk(outlet, messages, body, _unpack(owners))
            for (outlet, messages, owners), body in zip(rows, bodies, strict=True)
        ]
    except (TypeError, ValueError) as error:
        raise PeerError(f"not the outputs of a task: {error}") from None
    if not all(_sound(chunk, task.count) for chunk in chunks):
        raise PeerError("outputs of messages that the task does not have")
    return chunks


def _sound(chunk: Any, count: int) -> bool:
    """Whether the chunk is what its types say, which is not certain: it came from another process."""
    if not isinstance(chunk.outlet, str) or not isinstance(chunk.messages, int) or chunk.messages < 1:
        return False
    owners = chunk.owners
    return owners is None or (len(owners) == chunk.messages and min(owners) >= 0 and max(owners) < count)


def _within(number: Any, most: int) -> bool:
    return isinstance(number, int) and 0 <= number <= most


def _pack(chunks: list[Chunk]) -> tuple[list[list[Any]], list[bytes]]:
    """Owners go as an array: 256 numbers one by one cost as much as the rest of the frame."""
    return [[c.outlet, c.messages, _packed(c.owners)] for c in chunks], [c.body for c in chunks]


def _packed(owners: Owners) -> Any:
    if isinstance(owners, range):
        return [owners.start, owners.stop]
    return None if owners is None else array(_OWNERS, owners).tobytes()


def _unpack(owners: Any) -> Owners:
    if isinstance(owners, list):
        start, stop = owners
        return range(start, stop)
    return None if owners is None else array(_OWNERS, owners)
