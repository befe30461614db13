"""The processes of a run's instances: started from a fork server or executed, signalled and reaped. Does not belong here: when an
instance is started, and what its death means."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

from zpipe.errors import ZpipeError
from zpipe.runtime.environment import STDIN

_PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): orphans below this process become its children."""
_ANSWER_S = 30.0
"""How long the fork server may take for an instance. The first one waits for its imports, on a machine that may be loaded."""
_STDIN_OF_RUN = 3
"""The descriptor of the run's stdin in an instance that is executed."""
_ROOM_FOR_ARGUMENTS = 4096
"""Bytes in the arguments of the fork server in which an instance shows its own."""


class InstanceProcess:
    """One process.

    stderr  the end of its stderr that can be read, without blocking; to be closed by the one who reads it
    code    its exit code once it was reaped, or the negative number of the signal that killed it
    """

    def __init__(self, pid: int, stdin: int, stderr: int) -> None:
        self.pid = pid
        self.stderr: IO[bytes] = os.fdopen(stderr, "rb")
        self.code: int | None = None
        self._stdin: int | None = stdin

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing if it was reaped: its pid may be somebody else's."""
        if self.code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def reaped(self, status: int) -> None:
        """The kernel forgets its pid now. `status` is as of waitpid(2)."""
        self.code = os.waitstatus_to_exitcode(status)

    def close_stdin(self) -> None:
        """Has it end at once: its stdin is the line that it hangs on."""
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None


class InstanceProcesses:
    """All that this process has started. It reaps each child of this process, and orphans that plugins have left: nobody else
    here may wait for a process meanwhile.

    warm  start them from a fork server; False: execute each
    """

    def __init__(self, warm: bool) -> None:
        self._running: dict[int, InstanceProcess] = {}
        self._server: _ForkServer | None = None
        if warm:
            with suppress(OSError):  # instances are executed then, or their start is postponed for the same reason
                self._server = _ForkServer()

    def start(self, arguments: Sequence[str], env: Mapping[str, str], stdin_of_run: int | None) -> InstanceProcess:
        """Starts `zpipe ARGUMENTS` in a session of its own, so that Ctrl-C reaches only this process. It ends when its stdin
        ends, and so it ends with this process. Blocks until it is there. Raises OSError."""
        stdin, its_stdin_end = os.pipe()
        try:
            its_stderr_end, stderr = os.pipe()
        except OSError:
            os.close(stdin)
            os.close(its_stdin_end)
            raise
        os.set_blocking(its_stderr_end, False)
        try:
            inherited = (stdin, stderr) if stdin_of_run is None else (stdin, stderr, stdin_of_run)
            pid = self._fork(arguments, env, inherited) or _execute(arguments, env, inherited)
        except BaseException:
            os.close(its_stdin_end)
            os.close(its_stderr_end)
            raise
        finally:
            os.close(stdin)
            os.close(stderr)
        process = self._running[pid] = InstanceProcess(pid, its_stdin_end, its_stderr_end)
        return process

    def _fork(self, arguments: Sequence[str], env: Mapping[str, str], descriptors: Sequence[int]) -> int | None:
        """The pid, or None where there is no fork server, or it has died: then instances are executed. Raises OSError."""
        if self._server is None:
            return None
        try:
            return self._server.fork(arguments, env, descriptors)
        except _ServerDied:
            self._server.kill()
            self._server = None
            return None

    def reap(self) -> None:
        """Takes the exit codes of all that have ended. Does not block."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if process := self._running.pop(pid, None):
                process.reaped(status)

    def close(self) -> None:
        """Ends the fork server. Instances that still run go on."""
        if self._server is not None:
            self._server.kill()
            self._server = None


class _ServerDied(ZpipeError):
    """There is no answer of the fork server."""


class _ForkServer:
    """A process of `zpipe.cli.fork_server`. Raises OSError where it cannot be started.

    A request is a byte with descriptors: a file with the arguments and the environment as JSON, the stdin and the stderr of the
    instance, and perhaps the stdin of the run. The answer is the pid, or a negative errno, in 4 bytes, little endian.
    """

    def __init__(self) -> None:
        _adopt_orphans(True)
        self._requests, end = socket.socketpair()
        self._requests.settimeout(_ANSWER_S)
        command = [sys.executable, "-m", "zpipe.cli.fork_server", " " * _ROOM_FOR_ARGUMENTS]
        with end:
            self.pid = _spawn(command, os.environ, {0: end.fileno()})

    def fork(self, arguments: Sequence[str], env: Mapping[str, str], descriptors: Sequence[int]) -> int:
        """Returns the pid. Blocks. Raises OSError, or _ServerDied."""
        request = os.memfd_create("request")
        try:
            with open(request, "w", closefd=False) as file:
                json.dump([arguments, dict(env)], file)
            try:
                socket.send_fds(self._requests, [b"f"], [request, *descriptors])
                answer = self._requests.recv(4)
            except OSError as error:
                raise _ServerDied(f"the fork server does not answer: {error}") from error
        finally:
            os.close(request)
        if not answer:
            raise _ServerDied("the fork server has ended")
        pid = int.from_bytes(answer, "little", signed=True)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid

    def kill(self) -> None:
        """It holds nothing. Its exit code is of no use, and may have been reaped."""
        self._requests.close()
        _adopt_orphans(False)
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _adopt_orphans(adopt: bool) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def _execute(arguments: Sequence[str], env: Mapping[str, str], descriptors: Sequence[int]) -> int:
    stdin, stderr, *stdin_of_run = descriptors
    given = {0: stdin, 2: stderr}
    if stdin_of_run:
        given[_STDIN_OF_RUN] = stdin_of_run[0]
        env = {**env, STDIN: str(_STDIN_OF_RUN)}
    return _spawn([sys.executable, "-m", "zpipe", *arguments], env, given)


def _spawn(command: Sequence[str], env: Mapping[str, str], descriptors: Mapping[int, int]) -> int:
    # It inherits that SIGHUP is blocked, until it has a handler: by default SIGHUP would end it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in descriptors.items()]
        return os.posix_spawn(command[0], list(command), env, file_actions=actions, setsid=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
