"""What fails for a while and is tried again: said at a limited rate, and shown as what holds the stage.

May live here: remembering that something fails, saying so, and when to try again. What is tried is its owner's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from zpipe.runtime.logs import fields

NEVER = float("inf")
COMPLAINT_S = 5.0
"""A line about the beginning of an outage at most this often: a full disk must not be filled up by what is said of it."""
REPEAT_S = 60.0
"""A line about the same outage at most this often: it stands in the status and in the snapshots meanwhile."""
AGAIN_S = 1.0
"""Tried again after this long: soon enough for people, and a thousand times too seldom to cost anything."""


class Fault:
    """One thing that may fail for a while. Used by one thread.

    failing, working  the events in the log;  what: in words, with the error it is `text`, "" while all is well
    patience_s        what fails for less than this is not worth a word
    """

    def __init__(self, log: logging.Logger, failing: str, working: str, what: str, patience_s: float = 0.0) -> None:
        self.text = ""
        self._log = log
        self._failing = failing
        self._working = working
        self._what = what
        self._patience_s = patience_s
        self._since = NEVER
        self._said_at = -NEVER
        self._said = False
        self._times = 0

    def failed(self, error: object) -> None:
        """It failed (again): the first time is logged at once, then a line in REPEAT_S seconds."""
        now = time.monotonic()
        self._since = min(self._since, now)
        self._times += 1
        if now - self._since < self._patience_s:
            return
        self.text = f"{self._what}: {error}"
        if now >= self._said_at + (REPEAT_S if self._said else COMPLAINT_S):
            self._said_at = now
            self._said = True
            self._log.error(fields(event=self._failing, reason=self.text, times=self._times))

    def worked(self) -> None:
        """It works. Logged if it was logged that it did not. What fails after that is another outage."""
        if self._said:
            self._log.warning(fields(event=self._working, after_s=round(time.monotonic() - self._since, 1)))
        self.text, self._since, self._said, self._times = "", NEVER, False, 0


class RepeatedWrite:
    """One call that writes a small file, made again every AGAIN_S seconds until it raises no OSError."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._call: Callable[[], None] | None = None
        self._at = NEVER

    @property
    def pending(self) -> bool:
        return self._call is not None

    def run(self, call: Callable[[], None]) -> None:
        """Makes the call now; it replaces one that has not worked yet."""
        self._call = call
        self._try()

    def turn(self, now: float) -> float:
        """Tries again if it is time. Returns when to call again."""
        if now >= self._at:
            self._try()
        return self._at

    def _try(self) -> None:
        assert self._call is not None
        try:
            self._call()
        except OSError as error:
            self._fault.failed(error)
            self._at = time.monotonic() + AGAIN_S
        else:
            self._fault.worked()
            self._call, self._at = None, NEVER
