"""Which message a worker process is calling the plugin for. May live here: that one number, in memory that both ends see.

It is the note of `zpipe.daemon.storage.call_journal` (NONE, n + 1 for message n, ALL for a batch) with one value more.
"""

from __future__ import annotations

import mmap
import os

from zpipe.daemon.storage.call_journal import Note

NOT_BEGUN = 0xFFFFFFFE
"""Written by the daemon: the worker has not had the task yet."""
_BYTES = 4


class CallNote:
    """`note[0]` is the number."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, _BYTES)
        self.note: Note = memoryview(self._map).cast("I")

    def close(self) -> None:
        self.note.release()
        self._map.close()


def make() -> int:
    """A descriptor of new memory for a note."""
    fd = os.memfd_create("zpipe-call")
    os.ftruncate(fd, _BYTES)
    return fd
