"""Outages: a disk or a service that does not work for a while. They are logged at a limited rate, and shown.

How an outage is remembered and logged belongs here, and when a failed write is tried again. Must not live here: what is written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from zpipe.runtime.logs import fields

NEVER = float("inf")
OUTAGE_LOG_S = 5.0
"""A new outage is logged this often at most: the log must not fill up a disk that is nearly full."""
REPEAT_LOG_S = 60.0
"""An outage that goes on is logged this often at most. Meanwhile it stands in the status and in the snapshots."""
RETRY_S = 1.0
"""It is tried again after this long: soon enough for people, and a thousand times too seldom to cost anything."""


class Outage:
    """One thing that may fail for a while. Used by one thread.

    text              what fails, with the error of the last attempt; "" while all is well
    failing, working  names of the events in the log;  what: the thing that fails, in words
    patience_s        what fails for less than this is not mentioned
    """

    def __init__(self, log: logging.Logger, failing: str, working: str, what: str, patience_s: float = 0.0) -> None:
        self.text = ""
        self._log = log
        self._failing = failing
        self._working = working
        self._what = what
        self._patience_s = patience_s
        self._since = NEVER
        self._logged_at = -NEVER
        self._logged = False
        self._times = 0

    def failed(self, error: object) -> None:
        """It failed, perhaps once more. The first time is logged at once, then every REPEAT_LOG_S seconds."""
        now = time.monotonic()
        self._since = min(self._since, now)
        self._times += 1
        if now - self._since < self._patience_s:
            return
        self.text = f"{self._what}: {error}"
        if now >= self._logged_at + (REPEAT_LOG_S if self._logged else OUTAGE_LOG_S):
            self._logged_at = now
            self._logged = True
            self._log.error(fields(event=self._failing, reason=self.text, times=self._times))

    def worked(self) -> None:
        """It works. That is logged if the failure was. What fails after that is another outage."""
        if not self._times:
            return
        if self._logged:
            self._log.warning(fields(event=self._working, after_s=round(time.monotonic() - self._since, 1)))
        self.text, self._since, self._logged, self._times = "", NEVER, False, 0


class RepeatedWrite:
    """A call that writes a small file. It is made again every RETRY_S seconds until it raises no OSError."""

    def __init__(self, outage: Outage) -> None:
        self._outage = outage
        self._call: Callable[[], None] | None = None
        self._retry_at = NEVER

    @property
    def pending(self) -> bool:
        return self._call is not None

    def run(self, call: Callable[[], None]) -> None:
        """Makes the call now. It replaces one that has not worked yet."""
        self._call = call
        self._try()

    def turn(self, now: float) -> float:
        """Tries again if it is time. Returns when to call again."""
        if now >= self._retry_at:
            self._try()
        return self._retry_at

    def _try(self) -> None:
        assert self._call is not None
        try:
            self._call()
        except OSError as error:
            self._outage.failed(error)
            self._retry_at = time.monotonic() + RETRY_S
        else:
            self._outage.worked()
            self._call, self._retry_at = None, NEVER
