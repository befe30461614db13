"""The daemons that `zpipe run` starts, and when one that died is started again. Does not belong here: what a run does
because of a death."""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zpipe.runtime.environment import LAST_DEATH, SUPERVISED
from zpipe.runtime.signals import signal_name
from zpipe.supervisor.instance_processes import InstanceProcess, InstanceProcesses

FIRST_DELAY_S, MAX_DELAY_S = 0.1, 5.0
STABLE_S = 10.0
"""A child that has lived this long is started again without a longer delay: its death says nothing about its next life."""
MAX_FAILED_STARTS = 5
SPAWN_RETRY_S = 5.0
_CRASH_SIGNALS = {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
}
_TEMPORARY = {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def is_temporary(error: OSError) -> bool:
    """Whether a process could not be spawned because processes, descriptors or memory have run out, which may pass. Any other
    error, such as an interpreter that cannot be executed, would happen again."""
    return error.errno in _TEMPORARY


@dataclass(frozen=True)
class ChildDeath:
    """How a child ended. `code` is its exit code, or the negative number of the signal that killed it."""

    code: int

    @property
    def by_itself(self) -> bool:
        """Whether it exited or crashed (SIGSEGV, …). Any other signal was sent by somebody, such as an operator, or a kernel that
        is out of memory. Such a death does not say whether the child can start."""
        return self.code >= 0 or -self.code in _CRASH_SIGNALS

    def __str__(self) -> str:
        return f"killed by {signal_name(-self.code)}" if self.code < 0 else f"exit code {self.code}"


class ChildDaemon:
    """One instance's process, over all its lives.

    fresh       its first life forgets the committed position of its source
    ready       this life has started well: its plugin is open
    done        it has ended and is not started again
    stdin       the descriptor of the run's standard input, which the child reads; None: it does not
    restarting  it was asked to leave, to be started again with files that have changed
    start_at    when to start it, while it does not run
    why_absent  why it does not run, while it does not
    """

    def __init__(
        self,
        processes: InstanceProcesses,
        config: Path,
        stage: str,
        instance: int,
        env: Mapping[str, str],
        level: str,
        fresh: bool = False,
        stdin: int | None = None,
    ) -> None:
        self.stage = stage
        self.instance = instance
        self.restarts = -1
        self.failed_starts = 0
        self.done = False
        self.restarting = False
        self.ready = False
        self.start_at = 0.0
        self.process: InstanceProcess | None = None
        self._processes = processes
        self._arguments = ["stage", str(config), stage, "--instance", str(instance), "--log-level", level]
        self._env = {**env, SUPERVISED: "1"}
        self._stdin = stdin
        self.why_absent = "is not started yet"
        self._last_death = ""
        self._delay_s = FIRST_DELAY_S
        self._began = 0.0
        self._fresh = fresh

    @property
    def name(self) -> str:
        return f"{self.stage}.{self.instance}"

    def start(self) -> InstanceProcess:
        """Starts the process. Blocks until it is there. Raises OSError."""
        arguments = [*self._arguments, "--fresh"] if self._fresh else self._arguments
        self.process = self._processes.start(arguments, {**self._env, LAST_DEATH: self._last_death}, self._stdin)
        self.ready = self._fresh = False
        self.restarts += 1
        self._began = time.monotonic()
        return self.process

    def note_ready(self, ready: bool) -> None:
        self.ready |= ready

    def restart(self) -> None:
        """Has it leave in order: what it has begun is finished, the rest goes back to its upstream. Then it is due to start."""
        if self.process is not None and not self.restarting:
            self.restarting = True
            self.process.send_signal(signal.SIGTERM)

    def reload(self) -> None:
        """Has it take over what of the config can change while it runs."""
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)

    def stop_in_order(self) -> None:
        """Has it leave, not to be started again."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
        else:
            self.done = True

    def start_soon(self, now: float) -> None:
        """It has left, to be started again."""
        self.restarting = False
        self.start_at = now
        self.failed_starts = 0

    def finish(self) -> None:
        self.done = True

    def reap(self) -> ChildDeath | None:
        """How it died. None if it runs, or if its death was reported already."""
        self._processes.reap()
        if self.process is None or self.process.code is None:
            return None
        code = self.process.code
        self.process.close_stdin()
        self.process = None
        death = ChildDeath(code)
        self._last_death = str(death)
        self.why_absent = f"died ({death})"
        return death

    def postpone_start(self, error: OSError, now: float) -> None:
        """Plans another try, after an error that is temporary."""
        self.why_absent = f"cannot be started: {error.strerror}"
        self.start_at = now + SPAWN_RETRY_S

    def plan_restart(self, now: float, death: ChildDeath) -> None:
        """Plans the next start: soon after a life that was long or ready, and otherwise later each time. A start has failed if
        the child ended by itself before it was ready."""
        if now - self._began >= STABLE_S:
            self._delay_s = FIRST_DELAY_S
        if self.ready:
            self.failed_starts = 0
        elif death.by_itself:
            self.failed_starts += 1
        self.start_at = now + (self._delay_s if not self.ready else FIRST_DELAY_S)
        self._delay_s = min(self._delay_s * 2, MAX_DELAY_S)

    @property
    def cannot_start(self) -> bool:
        """Whether so many starts have failed that another try is of no use."""
        return self.failed_starts >= MAX_FAILED_STARTS

    def stop(self, kill: bool) -> None:
        """Has it stop at once; `kill` is for one that does not. What it holds was not acked, so its upstream still has it."""
        if self.process is None:
            return
        if kill:
            self.process.send_signal(signal.SIGKILL)
        else:
            self.process.close_stdin()
