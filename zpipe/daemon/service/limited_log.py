"""A log with a limit for lines that others can cause: that a peer was refused, that an operator asked for something.

Which of these lines are written belongs here. Without the limit whoever reaches a socket could fill the disk, or hide a fault of
somebody else behind its own. Must not live here: what a line says.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable

from zpipe.core.actions import LogEvent
from zpipe.runtime.logs import fields

MINUTE_S = 60.0
LINES_A_MINUTE = 60
"""Of one event: people and scripts that ask for something stay far below it."""


class LineLimit:
    """For the lines of one event: each distinct one is written once in MINUTE_S, and at most `most` of them all."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._written: dict[Hashable, float] = {}
        self._left_out = 0

    def admit(self, line: Hashable, now: float) -> int | None:
        """None if the line is not to be written; else how many were not since the last that was."""
        written = self._written
        while written and now - written[oldest := next(iter(written))] >= MINUTE_S:
            del written[oldest]
        if line in written or len(written) >= self._most:
            self._left_out += 1
            return None
        written[line] = now
        left_out, self._left_out = self._left_out, 0
        return left_out


class LimitedLog:
    """Used by one thread."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._limits: dict[str, LineLimit] = {}

    def write(self, event: LogEvent, now: float) -> None:
        """Logs it, unless the same was logged in this minute, or too much of the kind."""
        text = fields(event=event.event, **event.fields)
        limit = self._limits.setdefault(event.event, LineLimit(LINES_A_MINUTE))
        left_out = limit.admit(object() if event.repeats else text, now)
        if left_out is not None:
            text += f" {fields(left_out=left_out)}" if left_out else ""
            self._log.log(logging.WARNING if event.warning else logging.INFO, text)
