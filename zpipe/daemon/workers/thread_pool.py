"""A pool of threads in the daemon, with one event loop for async hooks. Must not live here: what a task means (`runner`)."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from zpipe.core.work.task import Chunk, Result, Task
from zpipe.daemon.loop_handover import Handover
from zpipe.daemon.plugin.async_thread import AsyncThread
from zpipe.daemon.plugin.runner import Runner, Step, Work
from zpipe.daemon.storage.call_journal import CallJournal, CallSlot
from zpipe.daemon.workers.event_loop import EventLoop

QUICK_S = 0.0001
"""Calls that take less on average are made by the thread that drives the loop: to hand a message over takes about as long. Longer
calls are not, as they block the loop: on a thread of its own, which finds the next task ready when one is done, work of 0.2 ms a
message takes 1.06 times as long as its calls, and 1.11 times if each task waits for a turn of the loop (measured). Only the
plugin's own time counts. The rest of a task takes as long on any thread, and longer on a busy machine: when it was counted,
twelve stages on two cores gave their loops up, and each message took two turns."""
WEIGHT = 0.2
"""The weight of the newest task in the average."""


class ThreadPool:
    """At most `count` tasks under way, each with a slot of the journal `calls`.

    `done` and `pass_on` are called on other threads than the daemon's loop, `done_here` by the thread that drives it.

    A thread runs a task until it is done or waits for an awaitable. It is then free for another, and the event loop goes on with
    this one. `is_async`: the hook is an `async def`, which blocks nothing, so tasks begin on the event loop too.

    The only thread of a pool drives the loop while its calls are quick (`loop_handover`). They are the same calls on the same
    thread, so a plugin sees no difference.
    """

    def __init__(
        self,
        count: int,
        calls: CallJournal,
        runner: Runner,
        is_async: bool,
        timeout_s: float | None,
        pass_on: Callable[[Task, list[Chunk]], None],
        done: Callable[[Task, Result], None],
        done_here: Callable[[Task, Result], None],
        log: logging.Logger,
        handover: Handover,
        async_thread: AsyncThread,
    ) -> None:
        self._count = count
        self._handover = handover
        self._alone = count == 1 and not is_async
        self._drives = False
        self._quick = False
        self._call_s: float | None = None
        self._runner = runner
        self._is_async = is_async
        self._pass_on = pass_on
        self._done = done
        self._done_here = done_here
        self._event_loop = EventLoop(timeout_s, self._resume, async_thread, log)
        self._lock = threading.Lock()
        self._free = [calls.slot(number) for number in range(count)]
        self._slots: dict[Work, CallSlot] = {}
        self._waiting: deque[Task] = deque()
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = 0
        self._idle = 0
        self.deaths: dict[str, int] = {}  # what kills a thread kills the daemon
        self.pids: tuple[int, ...] = ()

    def start(self) -> None:
        """Nothing to wait for: threads are made when they are needed."""

    def put(self, task: Task) -> None:
        """Does not block."""
        with self._lock:
            if not self._free:
                self._waiting.append(task)
                return
            slot = self._free.pop()
        self._begin(task, slot)

    def close(self) -> None:
        """Ends idle threads, and what waits on the event loop. A thread that hangs in the plugin ends with the process."""
        for _ in range(self._threads):
            self._calls.put(None)
        self._event_loop.close()

    # ---- driving the loop

    @property
    def may_drive(self) -> bool:
        """The thread may be given the loop now, so it is in no call that has lost the loop."""
        return self._quick and not self._drives

    @property
    def quick(self) -> bool:
        """The thread is the right one to drive the loop."""
        return self._quick

    @property
    def has_calls(self) -> bool:
        return not self._calls.empty()

    def drive(self, loop: Callable[[], None]) -> None:
        """Has the thread call `loop`, after what it is doing. Does not block."""
        self._drives = True

        def run() -> None:
            loop()
            self._drives = False

        self._give_to_thread(run)

    def make_call(self) -> bool:
        """On the thread that drives: makes the next call. False: it drives no more."""
        call = self._calls.get_nowait()
        assert call is not None
        self._handover.begin_call()
        call()
        return self._handover.end_call()

    def call(self, task: Task) -> bool:
        """On the thread that drives, while nothing else is under way: makes the calls of a task without handing it over. False:
        it drives no more."""
        slot = self._free.pop()
        work = self._runner.begin(task, slot)
        self._handover.begin_call()
        step = work.advance()
        if isinstance(step, Result) and self._handover.end_call():
            slot.end()
            self._free.append(slot)
            self._measure(task, step)
            self._done_here(task, step)
            return True
        self._slots[work] = slot
        self._go_on(work, step)
        return self._handover.end_call()

    # ---- on any thread

    def _begin(self, task: Task, slot: CallSlot) -> None:
        work = self._runner.begin(task, slot)
        self._slots[work] = slot
        if self._is_async:
            self._event_loop.begin(work, work.advance)
        else:
            self._give_to_thread(lambda: self._go_on(work, work.advance()))

    def _resume(self, work: Work, step: Step) -> None:
        """The event loop has nothing more to wait for in this task. Steps that may block go on on a thread of the pool."""
        if isinstance(step, Result):
            self._finish(work, step)
        else:
            self._give_to_thread(lambda: self._go_on(work, step))

    def _give_to_thread(self, call: Callable[[], None]) -> None:
        """Hands the call to an idle thread, or to a new one while there are fewer than `count`."""
        if self._threads == self._count:  # all are there, so it does not matter any more how many are idle
            self._calls.put(call)
            return
        with self._lock:
            self._idle -= 1
            new = self._idle < 0 and self._threads < self._count
            self._threads += new
            number = self._threads
        self._calls.put(call)
        if new:
            threading.Thread(target=self._work, name=f"zpipe-worker-{number}", daemon=True).start()

    def _finish(self, work: Work, result: Result) -> None:
        slot = self._slots.pop(work)
        slot.end()
        self._measure(work.task, result)
        self._done(work.task, result)
        with self._lock:
            if not self._waiting:
                self._free.append(slot)
                return
            task = self._waiting.popleft()
        self._begin(task, slot)

    def _measure(self, task: Task, result: Result) -> None:
        one = result.calls_s if task.batch else result.calls_s / task.count
        self._call_s = one if self._call_s is None else self._call_s + WEIGHT * (one - self._call_s)
        # It gives the loop up only at twice the bound: else a worker near the bound would get it and give it up again and again.
        self._quick = self._alone and self._call_s < (2 * QUICK_S if self._quick else QUICK_S)

    # ---- on the pool's threads

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            call = self._calls.get()
            if call is None:
                return
            call()

    def _go_on(self, work: Work, step: Step) -> None:
        while not isinstance(step, Result):
            self._alone = self._quick = False  # something has to be waited for, which a thread that drives cannot do
            if self._drives:
                self._handover.give_back()
            if not isinstance(step, list):
                self._event_loop.wait_for(work, step)
                return
            self._pass_on(work.task, step)
            step = work.advance()
        self._finish(work, step)
