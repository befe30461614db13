"""The way from other threads to the loop: posting calls and waking the poll. Must not live here: what the calls do."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable


class Wakeup:
    """Has a poll return from another thread, or from a signal handler: an eventfd in the poller."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def set(self) -> None:
        os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        os.close(self.fd)


class Mailbox:
    """Calls to be made on the loop's thread, in the order of posting.

    Posting costs a deque append. The poll is woken only while the loop is `asleep`, since writing to a descriptor costs 1 µs and
    a wake-up of the loop far more.
    """

    def __init__(self) -> None:
        self.wakeup = Wakeup()
        self.asleep = False
        self._calls: deque[Callable[[], None]] = deque()

    def post(self, call: Callable[[], None]) -> None:
        """From any thread. Does not block."""
        self._calls.append(call)
        self.wake()

    def wake(self) -> None:
        """From any thread: has the loop look now. Does not block. Once is enough until it sleeps again: a source that yields
        faster than the loop gets to run would write to the descriptor for every other message."""
        if self.asleep:
            self.asleep = False
            self.wakeup.set()

    def __bool__(self) -> bool:
        return bool(self._calls)

    def run(self) -> int:
        """On the loop's thread: makes the calls posted so far. Returns how many those were."""
        for _ in range(count := len(self._calls)):
            self._calls.popleft()()
        return count
