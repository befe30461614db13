"""Waiting for a service that `zpipe_open` or a source cannot reach now: for how long, and what is shown and logged meanwhile.

A source, or `zpipe_open`, says by raising `Throttled` or `Retry` that it is to be called again. Must not live here: what is
called. For process hooks the same answers are the core's matter, since they have messages that wait.
"""

from __future__ import annotations

import logging
import threading
import time

from zpipe.daemon.outages import NEVER, Outage
from zpipe.daemon.plugin.failures import seconds
from zpipe.errors import Retry, Throttled
from zpipe.runtime.exception_text import clean

FIRST_S = 0.5
MAX_S = 30.0
WORKS_AFTER_S = 15.0
"""A source that finds nothing to read gives no sign that it has reached its service. One that has not raised for this long, which
is more than a client waits for a connection, has."""


class ServiceWait:
    """Used by one thread at a time besides the loop's, which calls `turn` and reads `outage.text`."""

    def __init__(self, log: logging.Logger, plugin: str) -> None:
        self.outage = Outage(log, "service.waits", "service.reached", f"it waits for {plugin}")
        self._lock = threading.Lock()
        self._delay_s = FIRST_S
        self._works_at = NEVER

    def wait(self, answer: Throttled | Retry, stopping: threading.Event) -> None:
        """Blocks for as long as the plugin asks for, else longer each time; no longer than until `stopping` is set."""
        given = seconds(answer.retry_after if isinstance(answer, Throttled) else answer.delay)
        with self._lock:
            delay_s = self._delay_s if given is None else given
            self._delay_s = min(self._delay_s * 2, MAX_S)
            self._works_at = NEVER
            self.outage.failed(f"{clean(answer.reason)}; next try in {round(delay_s, 1):g} s")
        stopping.wait(delay_s)
        with self._lock:
            self._works_at = time.monotonic() + WORKS_AFTER_S

    def reached(self) -> None:
        """The call has worked."""
        if self._works_at != NEVER:
            with self._lock:
                self._reached()

    def _reached(self) -> None:
        self._delay_s, self._works_at = FIRST_S, NEVER
        self.outage.worked()

    def turn(self, now: float) -> float:
        with self._lock:
            if now >= self._works_at:
                self._reached()
            return self._works_at
