"""One worker process as the daemon sees it: started, given tasks one at a time, watched while it works, ended. Must not live
here: which task it gets. Each method may block, and only its slot's thread calls them; `kill` is for any thread."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from zpipe.config import Workers
from zpipe.core.work.task import Chunk, Failure, Result, Task, Verdict
from zpipe.daemon.service.process_memory import rss_bytes
from zpipe.daemon.workers import task_exchange
from zpipe.daemon.workers.task_exchange import NOT_BEGUN, CallNote, Pipe
from zpipe.daemon.workers.worker_metrics import WorkerMetrics
from zpipe.errors import PeerError
from zpipe.runtime.environment import SUPERVISED
from zpipe.runtime.exception_text import TRACEBACK_CHARACTERS, clean
from zpipe.runtime.signals import signal_name

CLOSE_S = 5.0
"""How long zpipe_close may take before the process is killed."""
DUMP_S = 0.5
"""How long a process that is to be killed has to write its traceback. Only a stopped one (SIGSTOP) does not."""
MEMORY_CHECK_S = 0.25
BEGIN_S = 10.0
"""How long a process has at least to begin with a task. On a busy machine it may get no core for longer than a call may last, and
no message is to blame for that."""
_BOOT = (
    "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); from zpipe.daemon.workers.worker_main import main; main()"
)
AGAIN = "another message of its task ended the worker process"
_MIB = 1 << 20
_NOT_FOR_WORKERS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", SUPERVISED)


class NotOpened(Exception):
    """The process could not open the plugin. The text is the reason."""


class NotBegun(Exception):
    """It ended before it had the task, so nothing has happened to the task. The text is how it ended."""


class _OverLimit(Exception):
    """The text says why the process is killed; `limit` names the limit that it has passed."""

    def __init__(self, reason: str, limit: str) -> None:
        super().__init__(reason)
        self.limit = limit


class WorkerProcess:
    """`start`: what the child is told, see `worker_main`. `limits`: its timeout is for one call; the others have the process
    replaced between tasks, memory also in a call. `metrics` takes in the plugin's metrics from the process. Raises OSError if
    there are no descriptors or processes left.

    ended_by  once it has ended: its signal or exit code, or the limit for which it was killed
    """

    def __init__(self, name: str, start: dict[str, Any], limits: Workers, metrics: WorkerMetrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._start = start
        self._tasks = task_exchange.TaskSender()
        self.messages = 0
        self.ended_by = ""
        self.traceback = ""
        self._seen, self._since = NOT_BEGUN, 0.0
        self._held = ExitStack()
        try:
            self._spawn(name)
        except OSError:
            self._held.close()
            raise

    def _spawn(self, name: str) -> None:
        with ExitStack() as theirs:
            ours, end = socket.socketpair()
            self._pipe = Pipe(ours, self._pause)
            self._held.callback(self._pipe.close)
            theirs.callback(end.close)
            note = task_exchange.note_memory()
            theirs.callback(os.close, note)
            self._note = CallNote(note)
            self._held.callback(self._note.close)
            self._traceback_fd = os.memfd_create("zpipe-traceback")
            self._held.callback(os.close, self._traceback_fd)
            alive, ours_alive = os.pipe()
            theirs.callback(os.close, alive)
            self._held.callback(os.close, ours_alive)
            given = (end.fileno(), note, self._traceback_fd, alive)
            command = [sys.executable, "-P", "-c", _BOOT, "\n".join(sys.path), f"zpipe-worker:{name}", *map(str, given)]
            env = {key: value for key, value in os.environ.items() if key not in _NOT_FOR_WORKERS}
            # exec, never fork: threads and sockets do not survive one. A process group of its own: Ctrl-C is the daemon's, and
            # what the plugin starts can be ended with it.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, env=env, pass_fds=given, process_group=0
            )
        self._exit = os.pidfd_open(self._process.pid)
        self._held.callback(os.close, self._exit)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def end_signs(self) -> tuple[int, int]:
        """Descriptors to watch while no task is under way: one of them becomes readable when the process is dead or broken."""
        return self._pipe.fileno(), self._exit

    def open(self) -> None:
        """Blocks until the plugin is open in the process. Raises NotOpened."""
        self._watch_from(None)
        try:
            self._pipe.send([task_exchange.START, self._start])
            value, _ = self._pipe.receive()
        except (EOFError, OSError, PeerError):
            raise NotOpened(f"its worker process {how_it_ended(self.end(kill=True))} while it started") from None
        if value[0] != task_exchange.READY:
            self.end(kill=False)
            raise NotOpened(value[1])
        self._metrics.take(task_exchange.read_metrics(value))
        limit = self._limits.memory_bytes
        if limit is not None and (size := self._rss()) > limit:  # it would be replaced after every task
            self.close()
            raise NotOpened(f"{too_large(size, limit)}, before its first message: allow more `memory`")

    # ---- a task

    def run(self, task: Task, pass_on: Callable[[list[Chunk]], None]) -> tuple[Result, bool]:
        """Returns the result, and whether the process lives. `pass_on` blocks as long as early outputs have to wait.

        Raises NotBegun. After that, and where the process does not live, it is ended.
        """
        began = time.monotonic()
        reason = ""
        self._note.note[0] = NOT_BEGUN
        self._watch_from(began)
        try:
            self._pipe.send(*self._tasks.frame(task))
            while True:
                value, bodies = self._pipe.receive()
                if value[0] == task_exchange.RESULT:
                    result = task_exchange.read_result(task, value, bodies)
                    self._metrics.take(task_exchange.read_metrics(value))
                    self.messages += task.count
                    return result, True
                chunks = task_exchange.read_early(task, value, bodies)
                self._check()  # a generator that yields fast leaves no pause, where this is done otherwise
                waits_since = time.monotonic()
                pass_on(chunks)
                self._since += time.monotonic() - waits_since  # only waiting for room is no part of the call
                self._pipe.send([task_exchange.GO_ON])
        except _OverLimit as over:
            reason, self.ended_by = str(over), over.limit
            self._dump_traceback()
        except PeerError as error:
            reason = f"its worker process broke off: {error}"
        except (EOFError, OSError):
            pass
        note = self._note.note[0]
        code = self.end(kill=bool(reason))
        if note == NOT_BEGUN and self.ended_by != "memory":
            raise NotBegun(reason or how_it_ended(code))
        seconds = time.monotonic() - began
        return died_result(task, note, reason or how_call_ended(code), self.traceback, seconds), False

    @property
    def replace_reason(self) -> str:
        """Why it should be replaced now, between tasks; "" if it should not."""
        limits = self._limits
        if limits.recycle_messages is not None and self.messages >= limits.recycle_messages:
            return f"it has had {self.messages} messages"
        if limits.memory_bytes is not None and (size := self._rss()) > limits.memory_bytes:
            return too_large(size, limits.memory_bytes).replace("its worker process", "it")
        return ""

    # ---- watching

    def _watch_from(self, now: float | None) -> None:
        """The call's time counts from `now`. None: there is no call."""
        self._watching = now is not None
        self._seen, self._since = self._note.note[0], now or 0.0

    def _pause(self, events: int) -> None:
        """Waits until the pipe is ready, and checks the limits meanwhile. Raises _OverLimit."""
        poll = select.poll()
        poll.register(self._pipe.fileno(), events)
        # That the pipe is open does not prove that the process lives: what the plugin has forked may hold it open.
        poll.register(self._exit, select.POLLIN)
        while not (ready := poll.poll(self._check_ms())):
            self._check()
        if ready == [(self._exit, select.POLLIN)]:
            raise EOFError

    def _check_ms(self) -> int | None:
        timeout_s, memory = self._limits.timeout_s, self._limits.memory_bytes
        if not self._watching or (timeout_s is None and memory is None):
            return None
        at = min(timeout_s / 4 if timeout_s is not None else MEMORY_CHECK_S, MEMORY_CHECK_S if memory else 3600.0)
        return max(int(at * 1000), 1)

    def _check(self) -> None:
        """A call began, as far as anybody can tell, when the note was first seen to have changed."""
        now, note, limits = time.monotonic(), self._note.note[0], self._limits
        if note != self._seen:
            self._seen, self._since = note, now
        if limits.timeout_s is not None and note == NOT_BEGUN:
            if now - self._since >= max(limits.timeout_s, BEGIN_S):
                raise _OverLimit(f"took no notice for {now - self._since:.0f} s", "timeout")
        elif limits.timeout_s is not None and now - self._since >= limits.timeout_s:
            raise _OverLimit(f"its call outlived the timeout of {limits.timeout_s:g} s", "timeout")
        if limits.memory_bytes is not None and (size := self._rss()) > limits.memory_bytes:
            raise _OverLimit(too_large(size, limits.memory_bytes), "memory")

    def _rss(self) -> int:
        try:
            return rss_bytes(self._process.pid)
        except OSError:
            return 0

    # ---- its end

    def _dump_traceback(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(task_exchange.DUMP)
        end, size = time.monotonic() + DUMP_S, 0
        while time.monotonic() < end:
            time.sleep(0.005)
            before, size = size, os.fstat(self._traceback_fd).st_size
            if size and size == before:
                return

    def close(self) -> None:
        """Ends the process in order: the plugin's zpipe_close runs in it. It is killed if that takes longer than CLOSE_S."""
        self._watch_from(None)
        with suppress(OSError):
            self._pipe.send([task_exchange.CLOSE])
        self.end(kill=False, within_s=CLOSE_S)

    def kill(self) -> None:
        """Kills it with what the plugin has started in it. From any thread."""
        with suppress(ProcessLookupError, PermissionError):
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self, kill: bool, within_s: float = 1.0) -> int:
        """Returns its exit status. Unless it is to be killed, it has so long to end by itself. Everything is released."""
        if self._process.returncode is not None:
            return self._process.returncode
        poll = select.poll()
        poll.register(self._exit, select.POLLIN)
        if not kill:
            poll.poll(int(within_s * 1000))
        self.kill()  # the rest of its group too; a process that has exited keeps its status, and its number until it is reaped
        code = self._process.wait()
        self.ended_by = self.ended_by or cause_of_end(code)
        # The end of what faulthandler wrote.
        written = Path(f"/proc/self/fd/{self._traceback_fd}").read_bytes()[-4 * TRACEBACK_CHARACTERS :]
        self.traceback = clean(written.decode(errors="replace")[-TRACEBACK_CHARACTERS:])
        self._held.close()
        self._metrics.end()
        return code


def how_it_ended(code: int) -> str:
    """In words. `code`: as `subprocess` has it, negative for a signal."""
    return f"exited with code {code}" if code >= 0 else f"was killed by {signal_name(-code)}"


def cause_of_end(code: int) -> str:
    """In one of a few short forms, by which deaths are counted: "SIGSEGV", "exit code 3"."""
    return f"exit code {code}" if code >= 0 else signal_name(-code)


def how_call_ended(code: int) -> str:
    return f"its worker process {how_it_ended(code)}{' in the call' if code >= 0 else ''}"


def too_large(rss_bytes: int, limit_bytes: int) -> str:
    return f"its worker process used {-(-rss_bytes // _MIB)} MiB, over the limit of {limit_bytes / _MIB:g} MiB"


def died_result(task: Task, note: int, reason: str, traceback: str, seconds: float) -> Result:
    """A task whose process died. All its outputs are lost, but only the message that the note names was in the call.

    If the note names none, each message is run again, alone: if the process dies then, it is clear which message did it.
    """
    blamed = range(task.count) if task.batch or task.count == 1 else range(note - 1, note)
    failures = [
        Failure(n, reason, traceback, Verdict.DEATH) if n in blamed else Failure(n, AGAIN, verdict=Verdict.AGAIN)
        for n in range(task.count)
    ]
    return Result([], failures=failures, seconds=seconds)
