"""Lines in the log that others can cause: of a refused peer, of an operator's request.

May live here: which of such lines are written. Whoever reaches a socket could fill the disk with the log otherwise, or hide a
fault of somebody else behind its own.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable

from zpipe.core.actions import Note
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


class Notes:
    """Used by one thread."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._limits: dict[str, LineLimit] = {}

    def write(self, note: Note, now: float) -> None:
        """Logs it, unless the same was logged in this minute, or too much of the kind."""
        text = fields(event=note.event, **note.fields)
        limit = self._limits.setdefault(note.event, LineLimit(LINES_A_MINUTE))
        left_out = limit.admit(object() if note.repeats else text, now)
        if left_out is not None:
            text += f" {fields(left_out=left_out)}" if left_out else ""
            self._log.log(logging.WARNING if note.warning else logging.INFO, text)
