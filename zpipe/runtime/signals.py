"""Signals: which ones a daemon reads, and how they wake its poll. Must not live here: what is done on one.

The handlers do nothing, and the loop reads which signals came. A flag that a handler sets would be seen only when the poll ends.
So the interpreter itself writes the number of the signal to a pipe that is in the poller (`signal.set_wakeup_fd`).
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

FOLDER_CHANGED = signal.SIGURG
"""By default it is ignored, so it can end neither a child that a plugin forks nor a process that is closing."""
WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, FOLDER_CHANGED)


class Signals:
    """Made on the main thread. `read` returns the signals that came since the last call."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in WATCHED:
            signal.signal(number, lambda *_: None)
        signal.siginterrupt(FOLDER_CHANGED, False)  # a plugin's system call goes on
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        default_in_forks(WATCHED)

    def watch_folder(self, folder: Path) -> int:
        """Has FOLDER_CHANGED come when an entry is made in the folder, until the returned descriptor is closed. Returns -1 if
        there is no such folder. On a file system that does not tell of changes the signal never comes.

        This is dnotify (fcntl(2), F_NOTIFY). For inotify Python needs ctypes, 0.3 MiB and 4 ms in every daemon.
        """
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return -1
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETSIG, FOLDER_CHANGED)
            fcntl.fcntl(fd, fcntl.F_NOTIFY, fcntl.DN_CREATE | fcntl.DN_RENAME | fcntl.DN_MULTISHOT)
        return fd

    def read(self) -> list[signal.Signals]:
        """The watched signals that have come. Those that a plugin has set handlers for come by the same pipe, and are ignored."""
        try:
            return [signal.Signals(number) for number in os.read(self.fd, 64) if number in WATCHED]
        except BlockingIOError:
            return []

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in WATCHED:
            signal.signal(number, signal.SIG_DFL)
        os.close(self.fd)
        os.close(self._write)


def signal_name(number: int) -> str:
    """SIGSEGV, or `signal 40` for one of those that have no names."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def default_in_forks(numbers: Collection[signal.Signals]) -> None:
    """Has these signals end a child that a plugin forks, whatever this process does on them.

    A child inherits the handlers and the pipe. So it would ignore a signal, and the daemon would read that as one of its own.
    While a child is forked the signals are blocked, so that this holds from the child's first moment on.
    """
    before_fork = threading.local()

    def block() -> None:
        before_fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before_fork.mask)

    def begin() -> None:
        signal.set_wakeup_fd(-1)
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=begin)
