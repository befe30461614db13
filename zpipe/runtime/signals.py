"""Signals: the handler only notes, the loop reads. May live here: which signals, and getting them to the poll.

A handler that only sets a flag waits for the poll to end, so the interpreter itself writes the signal's number to a pipe in
the poller (`signal.set_wakeup_fd`).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Collection

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """Made on the main thread. `read` gives the signals that came since the last call."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in WATCHED:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        default_in_forks(WATCHED)

    def read(self) -> list[signal.Signals]:
        try:
            return [signal.Signals(number) for number in os.read(self.fd, 64)]
        except BlockingIOError:
            return []

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in WATCHED:
            signal.signal(number, signal.SIG_DFL)
        os.close(self.fd)
        os.close(self._write)


def default_in_forks(numbers: Collection[signal.Signals]) -> None:
    """Has these signals end a child that a plugin forks, whatever this process does on them.

    A child inherits the handlers, and the pipe that they write to: a signal for the child would be ignored by it and be read here
    as one for the daemon. They are blocked meanwhile, so that this also holds for one that comes at the child's first moment.
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
