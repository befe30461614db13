"""Writing a source's position, one write at a time, the newest first.

May live here: what is to be written next and what follows. The store does the writing.

A write that failed is made again with the newest position: writing the one that failed could undo a later one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from zpipe.core.actions import Commit
from zpipe.daemon.faults import AGAIN_S, NEVER, Fault
from zpipe.daemon.mailbox import Mailbox
from zpipe.daemon.storage.store import Saved, Store


class PositionWriter:
    """`saved` makes of a commit what is written; `stored` is called on the loop's thread, `heard` on the store's."""

    def __init__(
        self,
        store: Store,
        mailbox: Mailbox,
        fault: Fault,
        saved: Callable[[Commit], Saved],
        stored: Callable[[int, bool], None],
    ) -> None:
        self.heard: Callable[[Any], None] = lambda position: None
        self._store = store
        self._mailbox = mailbox
        self._fault = fault
        self._saved = saved
        self._stored = stored
        self._next: Commit | None = None
        self._writing = False
        self._at = 0.0

    def ask(self, commit: Commit) -> None:
        """To be written. Does not block."""
        self._next = commit
        self.turn(time.monotonic())

    def turn(self, now: float) -> float:
        """Writes if there is something, and it is time. Returns when to call again."""
        if self._writing or self._next is None:
            return NEVER
        if now < self._at:
            return self._at
        self._write(self._next)
        return NEVER

    def _write(self, commit: Commit) -> None:
        self._next, self._writing = None, True
        saved = self._saved(commit)

        def done(error: Exception | None) -> None:
            if error is None:
                self.heard(saved.position)
            self._mailbox.post(lambda: self._done(commit, error))

        self._store.commit(saved, done)

    def _done(self, commit: Commit, error: Exception | None) -> None:
        self._writing = False
        if error is None:
            self._fault.worked()
            self._stored(commit.count, commit.ended)
        else:
            self._fault.failed(error)
            self._at = time.monotonic() + AGAIN_S
            self._next = self._next or commit
        self.turn(time.monotonic())
