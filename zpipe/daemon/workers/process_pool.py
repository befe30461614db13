"""A pool of worker processes: what one of them does to itself affects only the messages that it had. Must not live here: the
process itself, which is a `WorkerProcess`."""

from __future__ import annotations

import logging
import select
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from zpipe.core.work.delivery import Slice
from zpipe.core.work.task import Chunk, Result, Task, Verdict
from zpipe.daemon.mailbox import Wakeup
from zpipe.daemon.storage.call_journal import NONE
from zpipe.daemon.storage.last_life import MOST_IDS
from zpipe.daemon.workers import task_exchange
from zpipe.daemon.workers.worker_process import CLOSE_S, NotBegun, NotOpened, WorkerProcess, died_result, how_it_ended
from zpipe.errors import OperatorError
from zpipe.runtime.exception_text import reason_of
from zpipe.runtime.logs import TRACEBACK, fields

FIRST_DELAY_S, MAX_DELAY_S = 0.1, 5.0
"""The delay after a start that failed, which doubles each time."""
END_S = 0.5
"""How long a slot's thread has to end after its process was killed. One that waits for room in the outputs does not end."""
MOST_UNBEGUN = 3
"""A task is kept when so many processes die before they have begun with it. The next death counts as caused by the task."""


class ProcessPool:
    """`count` processes with one task each at a time. `done` and `pass_on` are called on the pool's threads, for its slots."""

    def __init__(
        self,
        count: int,
        spawn: Callable[[int], WorkerProcess],
        pass_on: Callable[[Task, list[Chunk]], None],
        done: Callable[[Task, Result], None],
        log: logging.Logger,
    ) -> None:
        self.spawn = spawn
        self.pass_on = pass_on
        self.done = done
        self.log = log
        self._lock = threading.Lock()
        self._waiting: deque[Task] = deque()
        self._idle: list[WorkerSlot] = []
        self._slots = [WorkerSlot(n, self) for n in range(1, count + 1)]

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

    @property
    def pids(self) -> tuple[int, ...]:
        """The pids of the processes that live."""
        return tuple(pid for slot in self._slots if (pid := slot.pid) is not None)

    def put(self, task: Task) -> None:
        """Does not block."""
        with self._lock:
            if not self._idle:
                self._waiting.append(task)
                return
            self._idle.pop().give(task)

    def close(self) -> None:
        """Idle processes close the plugin and end; those at work are killed. Blocks up to CLOSE_S."""
        for slot in self._slots:
            slot.close()
        end = time.monotonic() + CLOSE_S
        for slot in self._slots:
            slot.join(max(end - time.monotonic(), 0.0))

    # ---- for the slots, on their threads

    def next_for(self, slot: WorkerSlot) -> Task | None:
        """A task that waits. If there is none, the slot is idle and will be given one."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._idle.append(slot)
            return None

    def withdraw(self, slot: WorkerSlot) -> None:
        """The slot is not idle any more. It may have been given a task meanwhile."""
        with self._lock:
            if slot in self._idle:
                self._idle.remove(slot)


class WorkerSlot:
    """One process at a time, and the thread that keeps it.

    tried    set once the first process is up, or has failed to start;  failure: why it failed
    deaths   how many processes of it have died, by what ended them; read on other threads, by copying
    """

    def __init__(self, number: int, pool: ProcessPool) -> None:
        self.tried = threading.Event()
        self.failure: str | None = None
        self.deaths: dict[str, int] = {}
        self._number = number
        self._pool = pool
        self._log = pool.log
        self._given: Task | None = None
        self._wake = Wakeup()
        self._closing = threading.Event()
        self._process: WorkerProcess | None = None
        self._busy = False
        self._task: Task | None = None
        self._unbegun = 0
        self._delay_s = FIRST_DELAY_S
        self._thread = threading.Thread(target=self._keep_process, name=f"zpipe-worker-{number}", daemon=True)

    # ---- called on other threads

    @property
    def pid(self) -> int | None:
        """The pid of its process; None while it has none."""
        process = self._process
        return process.pid if process is not None else None

    def start(self) -> None:
        self._thread.start()

    def give(self, task: Task) -> None:
        self._given = task
        self._wake.set()

    def close(self) -> None:
        """An idle process ends in order. One that is at work or not yet up is killed. Does not wait for either."""
        self._closing.set()
        process = self._process
        if process is not None and self._busy:
            process.kill()
        self._wake.set()

    def join(self, within_s: float) -> None:
        """Waits for the end after `close`; whatever is still there then is killed."""
        self._thread.join(within_s)
        process = self._process
        if process is not None and self._thread.is_alive():
            process.kill()
            self._thread.join(END_S)
        if not self._thread.is_alive():
            self._wake.close()

    # ---- on its thread

    def _keep_process(self) -> None:
        # A process starts with the signal mask of the thread that starts it. Without this, these signals would end a process that
        # has not set its handlers yet.
        signal.pthread_sigmask(signal.SIG_BLOCK, task_exchange.NOT_FOR_WORKERS)
        while not self._closing.is_set():
            process = self._open()
            if process is None:
                self._closing.wait(self._delay_s)
                self._delay_s = min(self._delay_s * 2, MAX_DELAY_S)
                continue
            while self._has_task(process) and self._run(process):
                pass
            self._process = None
            if process.messages or self._busy:
                self._delay_s = FIRST_DELAY_S
            else:  # it died as soon as it was up, without a task
                self._closing.wait(self._delay_s)
                self._delay_s = min(self._delay_s * 2, MAX_DELAY_S)

    def _open(self) -> WorkerProcess | None:
        self._busy = True  # until it is up there is nothing in it to close
        try:
            process = self._process = self._pool.spawn(self._number)
            if self._closing.is_set():
                process.kill()
            process.open()
        except Exception as error:  # such as OSError if no descriptors are left; no exception may end the slot's thread
            if self._process is not None:
                self._process.end(kill=True)
                self._process = None
            self.failure = str(error) if isinstance(error, NotOpened) else f"no process can be started: {error}"
            if not self._closing.is_set():
                self._log.error(fields(event="worker.not_started", worker=self._number, reason=self.failure))
            self.tried.set()
            return None
        self.failure = None
        self._log.debug(fields(event="worker.started", worker=self._number, pid=process.pid))
        self.tried.set()
        return process

    def _has_task(self, process: WorkerProcess) -> bool:
        """Waits for the next task. False once the process has ended instead: it died, had to be replaced, or all is over."""
        if self._task is None:
            if reason := process.replace_reason:
                self._log.info(fields(event="worker.replaced", worker=self._number, pid=process.pid, reason=reason))
                process.close()
                return False
            self._task = self._pool.next_for(self)
        self._busy = self._task is not None
        poll = select.poll()
        poll.register(self._wake.fd, select.POLLIN)
        for fd in process.end_signs:
            poll.register(fd, select.POLLIN)
        while self._task is None and not self._closing.is_set():
            ready = {fd for fd, _ in poll.poll()}
            if not ready.isdisjoint(process.end_signs):
                self._pool.withdraw(self)
                self._task, self._given = self._given, None
                self._died(process, f"it {how_it_ended(process.end(kill=False))} while it was idle")
                return False
            self._wake.clear()
            self._task, self._given = self._given, None
        self._busy = not self._closing.is_set()
        if not self._busy:
            process.close()
        return self._busy

    def _run(self, process: WorkerProcess) -> bool:
        """Runs the task. Returns whether the process lives. A task that it had not begun when it died is kept for the next."""
        task = self._task
        assert task is not None
        try:
            result, lives = process.run(task, lambda chunks: self._pool.pass_on(task, chunks))
        except NotBegun as death:
            self._unbegun += 1
            if self._unbegun <= MOST_UNBEGUN:
                self._died(process, f"it {death} before it had its task")
                return False
            result, lives = died_result(task, NONE, f"its worker process {death} when it got it", "", 0.0), False
        except Exception as error:  # nothing may end the slot, nor may the task be lost
            process.end(kill=True)
            result, lives = died_result(task, NONE, f"its worker process failed: {reason_of(error)}", "", 0.0), False
        if not lives:
            if self._closing.is_set():
                return False  # killed on purpose
            blamed = [failure for failure in result.failures if failure.verdict is Verdict.DEATH]
            reason = blamed[0].reason if blamed else "it died outside a call"
            self._died(process, reason, [task.at(failure.index) for failure in blamed])
        self._task, self._unbegun = None, 0
        self._pool.done(task, result)
        return lives

    def _died(self, process: WorkerProcess, reason: str, blamed: Sequence[Slice] = ()) -> None:
        if self._closing.is_set():
            return
        self.deaths[process.ended_by] = self.deaths.get(process.ended_by, 0) + 1
        ids = ",".join(id for piece in blamed[:MOST_IDS] for id in piece.ids()) or None
        what = {"reason": reason, "messages_in_call": len(blamed), "ids": ids}
        self._log.warning(
            fields(event="worker.died", worker=self._number, pid=process.pid, **what),
            extra={TRACEBACK: process.traceback},
        )
