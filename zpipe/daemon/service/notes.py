"""Lines in the log that others can cause: of a refused peer, of an operator's request.

May live here: which of them are written. Whoever reaches a socket could fill the disk with the log otherwise.
"""

from __future__ import annotations

import logging
from collections import deque

from zpipe.core.actions import Note
from zpipe.runtime.logs import fields

AGAIN_S = 60.0
"""The same text is news again after this long."""
MINUTE_S = 60.0
LINES_A_MINUTE = 60
"""Of one event: people and scripts that ask for something stay far below it."""


class Notes:
    """Used by one thread."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[str, float] = {}
        self._lines: dict[str, deque[float]] = {}
        self._left_out: dict[str, int] = {}

    def write(self, note: Note, now: float) -> None:
        """Logs it, unless the same was said within AGAIN_S, or too much of the kind within a minute."""
        text = fields(event=note.event, **note.fields)
        if not note.repeats and now - self._said.get(text, -AGAIN_S) < AGAIN_S:
            return
        lines = self._lines.setdefault(note.event, deque())
        while lines and now - lines[0] >= MINUTE_S:
            lines.popleft()
        if len(lines) >= LINES_A_MINUTE:
            self._left_out[note.event] = self._left_out.get(note.event, 0) + 1
            return
        lines.append(now)
        if not note.repeats:
            self._said = {said: at for said, at in self._said.items() if now - at < AGAIN_S}
            self._said[text] = now
        if left_out := self._left_out.pop(note.event, 0):
            text += " " + fields(left_out=left_out)
        self._log.log(logging.WARNING if note.warning else logging.INFO, text)
