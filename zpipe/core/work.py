"""Work: tasks cut from the queue, their results, retries and dead letters.

May live here: what is in process and what becomes of it. It knows no session, no outlet and no thread; a task goes to
whoever runs plugins and comes back as a result.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from zpipe.core.delivery import Slice
from zpipe.core.ledger import Derivation
from zpipe.core.policy import RetryPolicy

Chunk = tuple[str, int, bytes]
"""(outlet, number of messages, encoded section): outputs of a task or a source."""


@dataclass(slots=True)
class Failure:
    """Message `index` of a task failed. `final`: trying again cannot help (not CBOR, over the size limit)."""

    index: int
    reason: str
    traceback: str = ""
    final: bool = False


@dataclass(slots=True)
class Result:
    """What became of a task.

    chunks    the last outputs (earlier ones may have been emitted before)
    filtered  messages dropped on purpose
    failures  messages that failed; all others are completed or filtered
    seconds   the worker's time;  ages: seconds since origin of one message a slice
    """

    chunks: list[Chunk]
    filtered: int = 0
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    ages: list[float] = field(default_factory=list)


class Task:
    """Messages handed to a worker in one go. `attempt` counts the calls of the plugin for them."""

    __slots__ = ("attempt", "batch", "count", "derivation", "number", "slices")

    def __init__(self, number: int, slices: list[Slice], attempt: int, batch: bool) -> None:
        self.number = number
        self.slices = slices
        self.attempt = attempt
        self.batch = batch
        self.count = sum(piece.count for piece in slices)
        self.derivation: Derivation | None = None

    def at(self, index: int) -> Slice:
        """The slice of message `index` alone."""
        for piece in self.slices:
            if index < piece.count:
                return piece.part(index, index + 1)
            index -= piece.count
        raise IndexError(index)

    def halves(self) -> tuple[list[Slice], list[Slice]]:
        """The slices of the first and of the second half, for finding the bad message of a batch."""
        first: list[Slice] = []
        second: list[Slice] = []
        left = self.count // 2
        for piece in self.slices:
            cut = min(piece.count, max(left, 0))
            if cut:
                first.append(piece.part(0, cut))
            if cut < piece.count:
                second.append(piece.part(cut, piece.count))
            left -= cut
        return first, second


@dataclass(slots=True)
class DeadLetter:
    """A message given up. `piece` is it (None: a record its source could not read, with its `id` and what stands there)."""

    reason: str
    traceback: str
    attempts: int
    piece: Slice | None
    derivation: Derivation | None = None
    id: str = ""
    raw: Any = None


class Retries:
    """Messages that wait to be tried again, by when. They are in process: the plugin has had them."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._waiting: list[tuple[float, int, list[Slice], int]] = []
        self._order = count()
        self.messages = 0

    def add(self, slices: list[Slice], attempt: int, due_at: float) -> None:
        self.messages += sum(piece.count for piece in slices)
        heapq.heappush(self._waiting, (due_at, next(self._order), slices, attempt))

    def delay_s(self, attempt: int, jitter: float) -> float:
        """The delay before attempt + 1: doubling, bounded, and spread over its upper half by `jitter` in [0, 1)."""
        delay = min(self._policy.delay_s * 2.0 ** min(attempt - 1, 32), self._policy.max_delay_s)
        return delay * (0.5 + 0.5 * jitter)

    def exhausted(self, attempt: int) -> bool:
        return attempt >= self._policy.attempts

    def pop_due(self, now: float) -> tuple[list[Slice], int] | None:
        """The slices and attempts so far of the next that is due."""
        if not self._waiting or self._waiting[0][0] > now:
            return None
        _, _, slices, attempt = heapq.heappop(self._waiting)
        self.messages -= sum(piece.count for piece in slices)
        return slices, attempt

    @property
    def next_at(self) -> float:
        return self._waiting[0][0] if self._waiting else float("inf")


class Pace:
    """How fast this stage serves, measured: what task sizes and credit windows follow.

    task_s  a task is cut to about this much work: long enough that handing it over (about 0.1 ms) is nothing, short enough
            that several workers share what is queued
    """

    task_s = 0.005
    _weight = 0.2

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._service_s: float | None = None

    def measure(self, messages: int, seconds: float) -> None:
        one = seconds / messages
        self._service_s = one if self._service_s is None else self._service_s + self._weight * (one - self._service_s)

    @property
    def service_s(self) -> float | None:
        """Seconds of a worker a message, or None before the first."""
        return self._service_s

    @property
    def rate(self) -> float:
        """Messages a second all workers can serve; 0.0 before the first."""
        return self._workers / max(self._service_s, 1e-9) if self._service_s is not None else 0.0

    def task_messages(self, most: int) -> int:
        if self._service_s is None:
            return 1
        return max(1, min(most, int(self.task_s / max(self._service_s, 1e-9))))

    def window(self, queue_time_s: float, least: int, most: int) -> int:
        """How many messages are worth having here: `queue_time_s` of work, within least and most."""
        return max(1, min(most, max(least, int(self.rate * queue_time_s))))
