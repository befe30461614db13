"""A pool of worker processes: what one of them does to itself touches only the messages it had.

Which slot gets which task belongs here, and the pool's start and end. Must not live here: a process, which is a
`WorkerProcess`, or keeping one alive, which a `WorkerSlot` does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from zpipe.core.work.task import Chunk, Result, Task
from zpipe.daemon.workers.worker_process import CLOSE_S, WorkerProcess
from zpipe.daemon.workers.worker_slot import WorkerSlot
from zpipe.errors import OperatorError


class ProcessPool:
    """`count` processes with one task each at a time. `done` and `emitted` are called on the pool's threads, and only post."""

    def __init__(
        self,
        count: int,
        spawn: Callable[[int], WorkerProcess],
        output_room: threading.Event,
        emitted: Callable[[Task, list[Chunk]], None],
        done: Callable[[Task, Result], None],
        log: logging.Logger,
    ) -> None:
        self._output_room = output_room
        self._emitted = emitted
        self._lock = threading.Lock()
        self._waiting: deque[Task] = deque()
        self._idle: list[WorkerSlot] = []
        self._slots = [
            WorkerSlot(n, lambda n=n: spawn(n), self, self._pass_on, done, log)  # type: ignore[misc]
            for n in range(1, count + 1)
        ]

    def start(self) -> None:
        """Blocks until each slot has a process with the plugin open, or has failed once to get one.

        Raises OperatorError with the reason if none has. One that failed goes on trying.
        """
        for slot in self._slots:
            slot.start()
        for slot in self._slots:
            slot.tried.wait()
        failures = [slot.failure for slot in self._slots if slot.failure is not None]
        if len(failures) == len(self._slots):
            raise OperatorError(failures[0])

    @property
    def deaths(self) -> dict[str, int]:
        """How many of its processes have died, by what ended them."""
        found: Counter[str] = Counter()
        for slot in self._slots:
            found.update(dict(slot.deaths))
        return dict(found)

    def put(self, task: Task) -> None:
        """Does not block."""
        with self._lock:
            if not self._idle:
                self._waiting.append(task)
                return
            slot = self._idle.pop()
            slot.given = task
        slot.wake()

    def close(self) -> None:
        """Idle processes close the plugin and end; those at work are killed. Blocks up to CLOSE_S."""
        for slot in self._slots:
            slot.close()
        end = time.monotonic() + CLOSE_S
        for slot in self._slots:
            slot.join(max(end - time.monotonic(), 0.0))

    # ---- for the slots, on their threads

    def next_for(self, slot: WorkerSlot) -> Task | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._idle.append(slot)
            return None

    def withdraw(self, slot: WorkerSlot) -> Task | None:
        with self._lock:
            if slot in self._idle:
                self._idle.remove(slot)
            task, slot.given = slot.given, None
            return task

    def _pass_on(self, task: Task, chunks: list[Chunk]) -> None:
        self._emitted(task, chunks)
        self._output_room.wait()
