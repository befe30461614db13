"""Logging that messages became dead letters: in a terminal equal ones are folded, so that everything else is still seen. Must not
live here: storing letters."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from zpipe.runtime.dead_letter_table import LetterRow
from zpipe.runtime.logs import TRACEBACK, fields, frames_of

NEVER = float("inf")
FOLD_S = 5.0
"""How often it is logged how many letters equal to a shown one have come since."""
MOST_KINDS = 100
"""Kinds of equal letters that are remembered: a plugin may put anything into its reasons."""
_NUMBER = re.compile(r"\d+")
_FRAME = re.compile(r'File "(?:[^"]*/)?([^"/]+)", line (\d+)')
Kind = tuple[str, ...]


@dataclass
class _Folded:
    """Letters equal to `first`, which was shown: how many since, the id of the last of them, when that is to be logged.

    at  the line on which they died, such as "tail.py:31"; "" if there is none
    """

    first: str
    reason: str
    at: str
    log_at: float
    messages: int = 0
    last: str = ""


class DeadLetterLog:
    """`fold`: people read the log as it comes, so the first letter of a kind is shown with its traceback, and the others are
    counted. Elsewhere there is a line for each letter, which can be searched for its id."""

    def __init__(self, log: logging.Logger, fold: bool) -> None:
        self._log = log
        self._fold = fold
        self._kinds: dict[Kind, _Folded] = {}

    def write(self, row: LetterRow, replayed: bool, now: float) -> None:
        """The letter is stored, or sent as a message."""
        if self._fold:
            kind = kind_of(row)
            folded = self._kinds.get(kind)
            if folded is not None:
                folded.messages += 1
                folded.last = row.id
                return
            if len(self._kinds) >= MOST_KINDS:
                self._log_folded(self._kinds.pop(next(iter(self._kinds))))
            self._kinds[kind] = _Folded(row.id, row.reason, line_of(row.traceback), now + FOLD_S)
        tries: dict[str, Any] = {"attempts": row.attempts, "deaths": row.deaths or None}
        text = fields(event="message.dead", id=row.id, reason=row.reason, **tries, replayed=True if replayed else None)
        self._log.warning(text, extra={TRACEBACK: row.traceback} if self._fold else None)

    def turn(self, now: float) -> float:
        """Logs what is due. Returns when to call again."""
        for folded in self._kinds.values():
            if folded.messages and now >= folded.log_at:
                self._log_folded(folded)
                folded.log_at = now + FOLD_S
        return min((folded.log_at for folded in self._kinds.values() if folded.messages), default=NEVER)

    def close(self) -> None:
        """Logs what is left."""
        for folded in self._kinds.values():
            self._log_folded(folded)

    def _log_folded(self, folded: _Folded) -> None:
        if folded.messages:
            more = {"messages": f"×{folded.messages:,}", "at": folded.at or None, "equal_to": folded.first}
            self._log.warning(fields(event="message.dead_repeated", **more, last=folded.last, reason=folded.reason))
            folded.messages = 0


def line_of(traceback: str) -> str:
    """The line on which an exception was raised, as FILE:LINE without folders; "" if it has none."""
    found = _FRAME.findall("\n".join(frames_of(traceback)[-1:]))
    return ":".join(found[0]) if found else ""


def kind_of(row: LetterRow) -> Kind:
    """What letters of the same cause have in common: the type of the exception and the lines that it came through, whatever its
    text says of the message; without an exception the reason, whatever numbers are in it."""
    frames = frames_of(row.traceback)
    if frames:
        return (row.reason.partition(":")[0], *frames)
    return (_NUMBER.sub("#", row.reason),)
