"""Work: tasks cut from the queue, their results, and dead letters.

May live here: what is in process and what becomes of it. It knows no session, no outlet and no thread; a task goes to
whoever runs plugins and comes back as a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from zpipe.core.ledger import Derivation
from zpipe.core.work.delivery import Slice

HISTORY_LINES = 20
"""Lines kept of what happened to a message: more say nothing new, and a message may be retried for days."""


DEAD = "dead"
"""The outlet of a stage's dead letters, where a stage reads it; no plugin's output may leave by it."""


class Chunk(NamedTuple):
    """Outputs of a task or a source, encoded as one section of so many `messages`.

    owners  for each of them the index of the task's message it was made from; None: all were made from all
    """

    outlet: str
    messages: int
    body: bytes
    owners: Sequence[int] | None = None


class Verdict(Enum):
    """What a failure means for its message."""

    RETRY = "retry"
    """An attempt was used; try again after a delay, while attempts are left."""
    THROTTLED = "throttled"
    """The service it calls asks to slow down: no attempt was used."""
    REJECT = "reject"
    """Trying again cannot help: a dead letter at once."""
    DEATH = "death"
    """Its call ended its worker process, or outlived the timeout."""
    AGAIN = "again"
    """It shared a task with one that ended the worker: run it again at once, nothing is counted."""
    FAIL = "fail"
    """No message is to blame and none can be worked on: the stage fails, its task is not done and nothing of it is acked."""


@dataclass(slots=True)
class Failure:
    """Message `index` of a task failed. `delay_s`: how long the plugin wants to wait before it is tried again."""

    index: int
    reason: str
    traceback: str = ""
    verdict: Verdict = Verdict.RETRY
    delay_s: float | None = None


HeldKey = tuple[int, int]
"""A message that the plugin holds: the number of the task that it came with, and its index there."""


@dataclass(slots=True)
class Releases:
    """What a call has made of held messages, a group of them for each output.

    groups    the messages of each group; empty for an output that was made from none
    chunks    the outputs: `owners` are indexes of groups
    dropped   indexes of groups that were dropped on purpose
    failures  groups whose output cannot be sent
    """

    groups: list[list[HeldKey]]
    chunks: list[Chunk]
    dropped: set[int]
    failures: list[Failure]


@dataclass(slots=True)
class Result:
    """What became of a task.

    chunks    the last outputs (earlier ones may have been emitted before)
    filtered  messages dropped on purpose
    failures  messages that failed; all others are completed, filtered or held. Of a hook that has no messages: that it failed
    seconds   the worker's time;  ages: seconds since origin of one message a slice
    held      messages that the plugin holds from now on;  releases: what it made of some that it held
    calls_s   of the worker's time, what the plugin took, where that is measured
    """

    chunks: list[Chunk]
    filtered: int = 0
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    ages: list[float] = field(default_factory=list)
    held: Sequence[int] = ()
    releases: Releases | None = None
    calls_s: float = 0.0


class CallHistory(NamedTuple):
    """How the plugin's calls for a message (or for a group that was tried as one) have ended so far.

    attempts   calls that failed and count;  throttles: calls in a row that were asked to slow down
    deaths     calls that ended their worker
    lines      one for each of the last HISTORY_LINES calls, for people
    """

    attempts: int = 0
    throttles: int = 0
    deaths: int = 0
    lines: tuple[str, ...] = ()

    @property
    def calls(self) -> int:
        return self.attempts + self.deaths

    def after(self, failure: Failure) -> CallHistory:
        """The history with one more call, which ended in `failure`."""
        kind = failure.verdict
        if kind is Verdict.AGAIN:
            return self
        if kind is Verdict.THROTTLED:
            return self._replace(throttles=self.throttles + 1)
        died = kind is Verdict.DEATH
        lines = (*self.lines, f"call {self.calls + 1}: {failure.reason}")[-HISTORY_LINES:]
        return CallHistory(self.attempts + (not died), 0, self.deaths + died, lines)


FIRST_CALL = CallHistory()


class Task:
    """Messages handed to a worker in one go.

    history  what happened to them before;  attempt: the number of this call of the plugin
    batch    one call for all of them;  alone: no other task may run in the same process meanwhile
    hook     "tick" or "flush", for which there are no messages; "" for a task with messages;  leaving: this instance is to go
    """

    __slots__ = ("alone", "attempt", "batch", "count", "derivation", "history", "hook", "leaving", "number", "slices")

    def __init__(
        self,
        number: int,
        slices: list[Slice],
        history: CallHistory,
        batch: bool,
        alone: bool = False,
        hook: str = "",
        leaving: bool = False,
    ) -> None:
        self.number = number
        self.slices = slices
        self.history = history
        self.attempt = history.calls + 1
        self.batch = batch
        self.alone = alone
        self.hook = hook
        self.leaving = leaving
        self.count = 0
        for piece in slices:
            self.count += piece.count
        self.derivation: Derivation | None = None

    def part(self, start: int, stop: int) -> list[Slice]:
        """The slices of messages [start, stop)."""
        found: list[Slice] = []
        base = 0
        for piece in self.slices:
            if base >= stop:
                break
            low, high = max(start - base, 0), min(stop - base, piece.count)
            if low < high:
                found.append(piece.part(low, high))
            base += piece.count
        return found

    def at(self, index: int) -> Slice:
        """The slice of message `index` alone."""
        return self.part(index, index + 1)[0]

    def without(self, failed: set[int]) -> list[Slice]:
        """The task's slices without the failed messages."""
        if not failed:
            return self.slices
        good: list[Slice] = []
        start = 0
        for index in (*sorted(failed), self.count):
            good += self.part(start, index)
            start = index + 1
        return good

    def halves(self) -> tuple[list[Slice], list[Slice]]:
        """The slices of the first and of the second half, for finding the bad message of a batch."""
        middle = self.count // 2
        return self.part(0, middle), self.part(middle, self.count)


@dataclass(slots=True)
class DeadLetter:
    """A message given up: `piece`, or, where that is None, a record that its source could not read, with its `id` and the `raw`
    content. `owners`: which messages of its `derivation` it is, where that follows each."""

    reason: str
    traceback: str
    history: CallHistory
    piece: Slice | None
    derivation: Derivation | None = None
    id: str = ""
    raw: Any = None
    owners: Sequence[int] | None = None
