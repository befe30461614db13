"""The positions of a head stage: which are emitted, which are finished, and which may be committed.

Must not live here: storing them, and reading the source.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple


class EmittedRun:
    """`count` messages that were emitted together, the last of them at `position`."""

    __slots__ = ("count", "finished", "position")

    def __init__(self, position: Any, count: int) -> None:
        self.position = position
        self.count = count
        self.finished = False

    def finish(self) -> None:
        self.finished = True


class SingleRun(EmittedRun):
    """A run of a source that acks single messages: the source hears the id of each that is finished, in any order."""

    __slots__ = ("_acked", "_ids", "_unfinished")

    def __init__(self, position: Any, ids: list[str], acked: list[str]) -> None:
        super().__init__(position, len(ids))
        self._ids = ids
        self._acked = acked
        self._unfinished = len(ids)

    def part(self, start: int, stop: int) -> RunPart:
        return RunPart(self, start, stop)

    def finish_part(self, start: int, stop: int) -> None:
        self._acked += self._ids[start:stop]
        self._unfinished -= stop - start
        self.finished = not self._unfinished


class RunPart(NamedTuple):
    run: SingleRun
    start: int
    stop: int

    def finish(self) -> None:
        self.run.finish_part(self.start, self.stop)


class SourcePositions:
    """Acks come in any order, but a position is committed only when all before it are acked, as a stream's receive buffer
    releases bytes in order.

    emitted    messages taken from the iterator        finished  those whose predecessors are all finished
    committed  the position of the last finished one   stored    how many of them a durable position covers
    ended      the iterator will give no more          exhausted it ended by itself: the next run starts over
    completed  that it ran to its end is durable
    acked      ids of finished messages that the source has not been told of, where it hears of each
    silent     it is not read: nothing comes from it but its end, when the operator wants that
    """

    def __init__(self, silent: bool = False) -> None:
        self.emitted = 0
        self.finished = 0
        self.committed: Any = None
        self.ended = False
        self.exhausted = False
        self.completed = False
        self.silent = silent
        self._asked = 0
        self._stored = 0
        self._completion_asked = False
        self._runs: deque[EmittedRun] = deque()
        self.acked: list[str] = []

    def emit(self, position: Any, count: int) -> EmittedRun:
        """Takes `count` messages in order, the last at `position`."""
        run = EmittedRun(position, count)
        self._runs.append(run)
        self.emitted += count
        return run

    def emit_singly(self, position: Any, ids: list[str]) -> SingleRun:
        """Takes messages in order, the last at `position`. The source is to hear of each once it is finished (`take_acked`)."""
        run = SingleRun(position, ids, self.acked)
        self._runs.append(run)
        self.emitted += len(ids)
        return run

    def take_acked(self) -> list[str]:
        """Ids of finished messages that the source has not been told of."""
        ids = self.acked.copy()
        self.acked.clear()
        return ids

    def end(self, exhausted: bool) -> None:
        self.ended = True
        self.exhausted = exhausted

    def advance(self) -> None:
        """Moves `committed` past every run whose predecessors are all finished."""
        while self._runs and self._runs[0].finished:
            run = self._runs.popleft()
            self.committed = run.position
            self.finished += run.count

    @property
    def behind(self) -> bool:
        """There is a position to commit that has not been asked for."""
        return self.finished > self._asked

    @property
    def all_stored(self) -> bool:
        """Everything emitted is finished, and durably so."""
        return not self._runs and self._stored == self.finished

    def ask(self) -> tuple[Any, int]:
        """The position to commit now, and how many messages it covers."""
        self._asked = self.finished
        return self.committed, self.finished

    def ask_completion(self) -> bool:
        """True once, when the source ran to its end and everything is stored."""
        due = self.exhausted and self.all_stored and not self._completion_asked
        self._completion_asked |= due
        return due

    def stored(self, count: int, completed: bool) -> None:
        self._stored = max(self._stored, count)
        self.completed |= completed
