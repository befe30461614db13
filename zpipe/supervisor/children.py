"""The daemons that `zpipe run` starts: their processes, and when one that died is started again.

May live here: spawning, reaping, back-off. It knows no snapshot and no ledger.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from zpipe.runtime.environment import LAST_DEATH, SUPERVISED

FIRST_DELAY_S, MAX_DELAY_S = 0.1, 5.0
STEADY_S = 10.0
"""A child that lived this long starts again without delay: its death says nothing about the next life."""
MAX_FAILED_STARTS = 5
UNSPAWNED_S = 5.0
_OWN_FAULTS = {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
}
_PASSING = {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def passes(error: OSError) -> bool:
    """Whether a process could not be spawned for a lack that passes (processes, descriptors, memory). Whatever else it is, an
    interpreter that cannot be executed for one, is so the next time too."""
    return error.errno in _PASSING


@dataclass(frozen=True)
class Death:
    """How a child ended: `code` as a shell would have it (negative: by that signal)."""

    code: int

    @property
    def by_itself(self) -> bool:
        """It exited, or by a fault of its own (SIGSEGV, …). Any other signal was sent by somebody: an operator, the kernel
        that is out of memory. That says nothing about whether it can start."""
        return self.code >= 0 or -self.code in _OWN_FAULTS

    def __str__(self) -> str:
        return f"killed by {signal.Signals(-self.code).name}" if self.code < 0 else f"exit code {self.code}"


class ChildDaemon:
    """One instance's process over all its lives. Its stderr comes by `stderr`, a line at a time.

    fresh    its first life is to forget the source's committed position
    absence  why it does not run, while it does not
    """

    def __init__(self, config: Path, stage: str, instance: int, env: Mapping[str, str], level: str) -> None:
        self.stage = stage
        self.instance = instance
        self.fresh = False
        self.restarts = -1
        self.failed_starts = 0
        self.done = False
        self.ready = False
        self.start_at = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [sys.executable, "-m", "zpipe", "stage", str(config), stage, "--instance", str(instance)]
        self._command += ["--log-level", level]
        self._env = {**env, SUPERVISED: "1"}
        self.absence = "is not started yet"
        self._last_death = ""
        self._delay_s = FIRST_DELAY_S
        self._began = 0.0

    @property
    def name(self) -> str:
        return f"{self.stage}.{self.instance}"

    def start(self) -> None:
        """Spawns it: exec, never fork, since threads and sockets do not survive one. In a process group of its own, so that
        Ctrl-C reaches only the supervisor; its stdin ends with the supervisor, and so does it. Raises OSError."""
        command = [*self._command, "--fresh"] if self.fresh else self._command
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=None,
            stderr=subprocess.PIPE,
            env={**self._env, LAST_DEATH: self._last_death},
            process_group=0,
        )
        assert self.process.stderr is not None
        os.set_blocking(self.process.stderr.fileno(), False)
        self.ready = self.fresh = False
        self.restarts += 1
        self._began = time.monotonic()

    @property
    def stderr(self) -> IO[bytes] | None:
        return self.process.stderr if self.process is not None else None

    def reap(self) -> Death | None:
        """How it died, once, if it did."""
        if self.process is None or self.process.poll() is None:
            return None
        code = self.process.returncode
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process = None
        death = Death(code)
        self._last_death = str(death)
        self.absence = f"died ({death})"
        return death

    def put_off(self, error: OSError, now: float) -> None:
        """It could not be spawned for a lack that passes: once more in a while."""
        self.absence = f"cannot be started: {error.strerror}"
        self.start_at = now + UNSPAWNED_S

    def plan_restart(self, now: float, death: Death) -> None:
        """When to start it again: at once after a steady life, else later each time. A failed start is one that ended by
        itself before it was ready."""
        if now - self._began >= STEADY_S:
            self._delay_s = FIRST_DELAY_S
        if self.ready:
            self.failed_starts = 0
        elif death.by_itself:
            self.failed_starts += 1
        self.start_at = now + (self._delay_s if not self.ready else FIRST_DELAY_S)
        self._delay_s = min(self._delay_s * 2, MAX_DELAY_S)

    @property
    def hopeless(self) -> bool:
        return self.failed_starts >= MAX_FAILED_STARTS

    def end(self, kill: bool) -> None:
        """Has it stop now: what it holds is its upstream's. `kill` if it did not."""
        if self.process is None:
            return
        assert self.process.stdin is not None
        if kill:
            self.process.kill()
        elif not self.process.stdin.closed:
            self.process.stdin.close()
