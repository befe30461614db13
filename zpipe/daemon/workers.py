"""The threads a stage's plugin runs on: a pool for its process hooks.

May live here: threads, handing tasks to them and results back. What a task means is the runner's.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from zpipe.core.work import Chunk, Result, Task
from zpipe.daemon.calls import CallJournal, Slot
from zpipe.daemon.runner import Runner

if TYPE_CHECKING:
    import asyncio

Runners = Callable[[Callable[[Any], Any]], Runner]


class Gate:
    """Open while the stage's outputs have room. Workers that emit early wait at it, never the loop."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def set(self, open: bool) -> None:
        if open:
            self._open.set()
        else:
            self._open.clear()

    def wait(self) -> None:
        self._open.wait()


class Workers:
    """`count` threads, each with a slot of the `journal`. `done` and `emitted` are called on them and must only post.

    Coroutines of async hooks run on one event loop in a thread of its own, made when the first comes; each worker waits for
    one, so `count` is the concurrency of async plugins too.
    """

    def __init__(
        self,
        count: int,
        make_runner: Runners,
        gate: Gate,
        emitted: Callable[[Task, list[Chunk]], None],
        done: Callable[[Task, Result], None],
        journal: CallJournal,
    ) -> None:
        self._runner = make_runner(self._wait)
        self._gate = gate
        self._emitted = emitted
        self._done = done
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, args=(journal.slot(n),), name=f"zpipe-worker-{n}", daemon=True)
            for n in range(count)
        ]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def put(self, task: Task) -> None:
        """Does not block."""
        self._tasks.put(task)

    def _work(self, slot: Slot) -> None:
        while (task := self._tasks.get()) is not None:
            current = task

            def overflow(chunks: list[Chunk], task: Task = current) -> None:
                self._emitted(task, chunks)
                self._gate.wait()

            slot.begin(current)
            result = self._runner.run(current, overflow, slot.note)
            slot.end()
            self._done(current, result)

    def _wait(self, made: Any) -> Any:
        """Runs an awaitable, or an async iterator to a list, on the event loop; blocks this worker until it is done."""
        import asyncio  # 6 MiB that only async plugins need

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="zpipe-asyncio", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(_settle(made), self._loop).result()

    def close(self) -> None:
        """Ends the threads that are idle; one that is stuck in the plugin ends with the process."""
        for _ in self._threads:
            self._tasks.put(None)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)


async def _settle(made: Any) -> Any:
    if isinstance(made, AsyncIterator):
        return iter([one async for one in made])
    return await made
