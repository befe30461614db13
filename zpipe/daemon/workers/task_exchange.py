"""Tasks and results as frames between the daemon and a worker process.

May live here: both directions of each. Sections go as the bytes they came as; nothing is decoded in the daemon.
"""

from __future__ import annotations

import signal
from array import array
from typing import Any

from zpipe.core.ledger import Owners
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Slice
from zpipe.core.work.task import Chunk, Failure, PastCalls, Result, Task, Verdict
from zpipe.errors import PeerError

TASK, GO_ON, START, CLOSE = "task", "go_on", "start", "close"
READY, FAILED, EARLY, RESULT = "ready", "failed", "early", "result"
Frame = tuple[Any, list[bytes]]

DUMP = signal.SIGRTMAX
"""Has a worker write where it is to its last words: the signal that plugins use least."""
NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGTERM)
"""The daemon says when it is over; until then it wants results."""
_OWNERS = "I"


class Outbox:
    """The daemon's side of tasks. It knows which section the worker has: one that was cut into tasks goes there once."""

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


class Inbox:
    """The worker's side of tasks."""

    def __init__(self) -> None:
        self._section = Section(b"", 0)
        # Nothing here is acked: a delivery is only what a slice has to have.
        self._nowhere: dict[str, Delivery] = {}

    def task(self, value: list[Any], bodies: list[bytes]) -> Task:
        _, number, batch, attempt, rows = value
        left = iter(bodies)
        slices = []
        for count, start, stop, redelivery, known, source in rows:
            if not known:
                self._section = Section(next(left), count, attempt=redelivery)
            slices.append(Slice(self._delivery(source), self._section, 0, start, stop, 0.0))
        return Task(number, slices, PastCalls(attempts=attempt - 1), batch)

    def _delivery(self, source: str) -> Delivery:
        if source not in self._nowhere:
            self._nowhere[source] = Delivery([], lambda delivery: None, source=source)
        return self._nowhere[source]


def result_frame(task: Task, result: Result) -> Frame:
    rows, bodies = _pack(result.chunks)
    failures = [[f.index, f.reason, f.traceback, f.verdict.value, f.delay_s] for f in result.failures]
    return [RESULT, task.number, rows, result.filtered, failures, result.seconds, result.ages], bodies


def early_frame(task: Task, chunks: list[Chunk]) -> Frame:
    rows, bodies = _pack(chunks)
    return [EARLY, task.number, rows], bodies


def read_result(task: Task, value: list[Any], bodies: list[bytes]) -> Result:
    """Raises PeerError for what no sound worker sends: a plugin may have forked, or written into the pipe."""
    try:
        _, number, rows, filtered, failures, seconds, ages = value
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
        raise PeerError("times that are none")
    return Result(_read_chunks(task, number, rows, bodies), filtered, found, seconds, ages)


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


def _sound(chunk: Chunk, count: int) -> bool:
    owners, outlet, messages = chunk.owners, *_untyped(chunk)
    if not isinstance(outlet, str) or not isinstance(messages, int) or messages < 1:
        return False
    return owners is None or (len(owners) == chunk.messages and min(owners) >= 0 and max(owners) < count)


def _untyped(chunk: Chunk) -> tuple[Any, Any]:
    """What stands in it, whatever its type says: it came from another process."""
    return chunk.outlet, chunk.messages


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
