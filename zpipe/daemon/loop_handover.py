"""Which thread drives the loop: the main thread, or the worker whose calls of the plugin are quick.

A worker that drives makes its calls between two looks at the sockets, so no message waits for another thread. A call that lasts
loses the loop: the main thread goes on with it, and the call ends as on any worker. Go's scheduler does the same with a thread
that stays in a system call. Must not live here: what a turn of the loop does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LOOK_S = 0.025
"""The main thread looks this often while calls are made, and sleeps while none are."""
LONG_S = 0.05
"""A call that has lasted for so long loses the loop. The least that peers wait for a sign of life is ten times that."""


class Handover:
    """Two threads, of which one drives. Every method is one step under one lock, which is also the full fence that libzmq asks
    for where sockets change threads.

    The main thread calls `give`, then `watch`; the worker calls the rest.

    worker_drives  only the thread that drives may ask, as for that one it cannot change meanwhile
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._renew_lock()
        self.worker_drives = False
        self._began_at: float | None = None
        self._calls = 0
        self._seen_calls = 0
        self._asleep = False

    def leave_to_parent(self) -> None:
        """In a child that a plugin has forked in a call: nobody drives, since the sockets are the parent's. The lock may have
        been held by a thread that the child does not have."""
        self._renew_lock()
        self.worker_drives = False

    def _renew_lock(self) -> None:
        """Methods that run for each call use `_lock` directly: to take it through the Condition costs four more functions."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    # ---- on the main thread

    def give(self) -> None:
        """The worker drives from now on. Until it takes the loop, whatever it is doing counts as a call."""
        with self._changed:
            self.worker_drives = True
            self._begin()

    def watch(self) -> None:
        """Blocks until the main thread drives again, since a call lasts or the worker gives the loop back."""
        while not self.look():
            with self._changed:
                self._asleep = self._began_at is None and self._calls == self._seen_calls
                self._seen_calls = self._calls
                if self.worker_drives:
                    self._changed.wait(None if self._asleep else LOOK_S)
                self._asleep = False

    def look(self) -> bool:
        """Whether the main thread drives; it does from now on if a call has lasted."""
        with self._changed:
            if self.worker_drives and self._began_at is not None:
                self.worker_drives = self._clock() - self._began_at < LONG_S
            return not self.worker_drives

    # ---- on the worker's thread

    def begin_call(self) -> None:
        """While it drives: from now until `end_call` the loop may be lost."""
        with self._lock:
            self._begin()
            if self._asleep:
                self._changed.notify()

    def end_call(self) -> bool:
        """Whether the worker still drives. If not, it must touch nothing that is the loop's."""
        with self._lock:
            if self.worker_drives:
                self._began_at = None
            return self.worker_drives

    def give_back(self) -> None:
        """The main thread drives from now on. The worker may be in a call."""
        with self._lock:
            self.worker_drives = False
            self._changed.notify()

    def _begin(self) -> None:
        self._calls += 1
        self._began_at = self._clock()
