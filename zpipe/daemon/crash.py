"""How the life before this one ended, when it was an accident. May live here: what is found of that, and leaving it behind.

Nobody can be asked: the process is gone. What had been under way in it is in the call journal; where it stood, Python's
faulthandler has written; what its parent saw, `zpipe run` says in the environment.
"""

from __future__ import annotations

import faulthandler
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zpipe.core.delivery import Slice
from zpipe.core.intake import Suspects
from zpipe.daemon.call_journal import CallJournal, producer_of, suspects
from zpipe.daemon.journal import fields
from zpipe.errors import OperatorError

LAST_DEATH = "ZPIPE_LAST_DEATH"
"""Set by `zpipe run` for a child that it starts again: how the one before ended, for people."""
TRACEBACK_CHARACTERS = 8000


@dataclass(frozen=True)
class Crash:
    """how  "killed by SIGSEGV", or "" where nobody knows;  traceback  of a fatal signal, or "" """

    suspects: Suspects
    how: str
    traceback: str

    def tell(self, log: logging.Logger) -> None:
        """Says what was found, if that life ended by accident."""
        if not (self.suspects or self.how or self.traceback):
            return
        in_call = sum(stop - start for _, rows in self.suspects.values() for start, stop, _ in rows)
        log.warning(fields(event="crash.found", how=self.how or None, messages_in_call=in_call))
        for line in self.traceback.splitlines():
            log.warning(line)

    def accuses(self, piece: Slice) -> bool:
        """Whether that life ended in a call of this message: else its end says nothing about it."""
        if not piece.section.suspicion:
            return False
        producer, incarnation = producer_of(piece)
        accused, rows = self.suspects.get(producer, ("", []))
        number = piece.section.first + piece.start
        return accused == incarnation and any(start <= number < stop for start, stop, _ in rows)


class CrashFiles:
    """The files of one instance, in its state folder."""

    def __init__(self, folder: Path) -> None:
        self._calls = folder / "calls"
        self._traceback = folder / "crash.txt"

    def found(self, env: Mapping[str, str]) -> Crash:
        """What the life before has left. To be read before `begin`."""
        try:
            text = self._traceback.read_text(errors="replace")
        except OSError:
            text = ""
        return Crash(suspects(self._calls), env.get(LAST_DEATH, ""), text[:TRACEBACK_CHARACTERS])

    def begin(self, workers: int) -> CallJournal:
        """Files for this life. Raises OperatorError."""
        try:
            # Not closed: the faulthandler writes to its descriptor for as long as the process lives.
            self._file = self._traceback.open("w")
            faulthandler.enable(self._file)
            return CallJournal(self._calls, workers)
        except OSError as error:
            hint = "is it writable, and is there room on its disk?"
            raise OperatorError(f"cannot write in {self._calls.parent}: {error.strerror}; {hint}") from None
