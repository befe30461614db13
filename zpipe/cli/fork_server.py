"""`python -m zpipe.cli.fork_server`: the process that `zpipe run` forks its instances from.

It has imported what an instance needs and opened nothing, so that a fork is an instance 0.1 s of CPU earlier than a new
interpreter, and shares that memory with its siblings. Does not belong here: when an instance is started, and what becomes of it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from zpipe.runtime.environment import STDIN

_IMPORTED = (
    "zpipe.cli.operating.stage",
    "zpipe.daemon.instance",
    "encodings.utf_8_sig",
    "sqlite3",
    "tempfile",
)
"""What most instances import. No module of a plugin: its file may change while the run goes on."""
_ARGUMENTS_START, _ARGUMENTS_END = 47, 48
"""Fields of /proc/PID/stat, counted from 0 (proc_pid_stat(5))."""


def main() -> None:
    """Serves until the run ends. In a fork it does what `zpipe` does with the arguments of the request."""
    requests = socket.socket(fileno=0)
    gc.disable()  # a collection would write to objects that the forks share, and find nothing
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    descriptors = _serve(requests)
    requests.detach()
    gc.enable()
    _become(*descriptors)
    from zpipe.cli import main as run_command

    run_command()


def _serve(requests: socket.socket) -> Sequence[int]:
    """Forks for each request. Returns in the fork, with the descriptors of the request. Blocks."""
    while True:
        received, descriptors, _, _ = socket.recv_fds(requests, 1, 4, socket.MSG_CMSG_CLOEXEC)
        if not received:
            os._exit(0)
        try:
            between = os.fork()
        except OSError as error:
            _answer(requests, -(error.errno or 1))
        else:
            if between == 0 and _fork_orphan(requests):
                return descriptors
            os.waitpid(between, 0)
        for descriptor in descriptors:
            os.close(descriptor)


def _fork_orphan(requests: socket.socket) -> bool:
    """Forks, answers with the pid and exits; returns True in the fork. The kernel makes an orphan the child of `zpipe run`, which
    so waits for an instance that was forked as for one that it executed."""
    try:
        pid = os.fork()
    except OSError as error:
        pid = -(error.errno or 1)
    if pid == 0:
        return True
    _answer(requests, pid)
    os._exit(0)


def _answer(requests: socket.socket, pid: int) -> None:
    try:
        requests.sendall(pid.to_bytes(4, "little", signed=True))
    except OSError:  # the run has ended
        os._exit(0)


def _become(request: int, stdin: int, stderr: int, stdin_of_run: int | None = None) -> None:
    """Makes this process what it would be if it had been executed, in a session of its own."""
    os.setsid()
    # As in an executed one: by default SIGHUP would end the instance before it has a handler.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    with open(request, "rb") as file:
        file.seek(0)
        arguments, environment = json.load(file)
    for descriptor, number in ((stdin, 0), (stderr, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if stdin_of_run is not None:
        environment[STDIN] = str(stdin_of_run)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    _show_as([sys.executable, "-m", "zpipe", *arguments])


def _show_as(command: Sequence[str]) -> None:
    """Has ps and pgrep show this process as that command, in the memory of the arguments of the server, which has room for it."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = (int(fields[field - 2]) for field in (_ARGUMENTS_START, _ARGUMENTS_END))
    room = end - start
    words = b"".join(os.fsencode(word) + b"\0" for word in command)[: room - 1]
    ctypes.memmove(start, words.ljust(room, b"\0"), room)


if __name__ == "__main__":
    main()
