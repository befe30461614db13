"""Writing a source's position: one write at a time, the newest position first. Must not live here: SQL, which is the store's.

A write that failed is made again with the newest position: writing the one that failed could undo a later one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from zpipe.core.actions import Commit
from zpipe.daemon.mailbox import Mailbox
from zpipe.daemon.outages import NEVER, RETRY_S, Outage
from zpipe.daemon.storage.store import SavedPosition, Store


class PositionWriter:
    """Used by the loop's thread.

    finished_before  messages that were finished before this life began
    completed_by     gives the name under which the end of the source is saved: the run's, or outside one this incarnation's
    stored           called with what is durable now, on the loop's thread
    committed        called with the position that is durable now, on the store's thread
    """

    def __init__(
        self,
        store: Store,
        mailbox: Mailbox,
        outage: Outage,
        completed_by: Callable[[], str],
        stored: Callable[[int, bool], None],
        committed: Callable[[Any], None],
    ) -> None:
        self.outage = outage
        self._before = SavedPosition()
        self._store = store
        self._mailbox = mailbox
        self._completed_by = completed_by
        self._stored = stored
        self._committed = committed
        self._next: Commit | None = None
        self._writing = False
        self._retry_at = 0.0

    @property
    def finished_before(self) -> int:
        return self._before.finished

    def go_on_from(self, saved: SavedPosition) -> None:
        """Where the source stood when this life began."""
        self._before = saved

    def write(self, commit: Commit) -> None:
        """Writes it, after the write that is under way. Does not block."""
        self._next = commit
        self.turn(time.monotonic())

    def turn(self, now: float) -> float:
        """Begins a write if one is due. Returns when to call again."""
        if self._writing or self._next is None:
            return NEVER
        if now < self._retry_at:
            return self._retry_at
        self._begin(self._next)
        return NEVER

    def _begin(self, commit: Commit) -> None:
        self._next, self._writing = None, True
        position = self._before.position if commit.count == 0 else commit.position
        saved = SavedPosition(
            position, self._before.finished + commit.count, self._completed_by() if commit.ended else ""
        )

        def done(error: Exception | None) -> None:
            if error is None:
                self._committed(saved.position)
            self._mailbox.post(lambda: self._done(commit, error))

        self._store.commit(saved, done)

    def _done(self, commit: Commit, error: Exception | None) -> None:
        self._writing = False
        if error is None:
            self.outage.worked()
            self._stored(commit.count, commit.ended)
        else:
            self.outage.failed(error)
            self._retry_at = time.monotonic() + RETRY_S
            self._next = self._next or commit
        self.turn(time.monotonic())
