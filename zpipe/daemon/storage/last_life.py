"""How the life before this one ended, if it crashed, and how this one does.

The process is gone, but it has left traces. The call journal has the calls that were under way. Python's faulthandler has written
where its threads were. Its exit status is in the environment if `zpipe run` started it, or in a file that systemd writes by the
unit's ExecStopPost=. A process that fails by itself writes that file, too.
"""

from __future__ import annotations

import faulthandler
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zpipe.core.upstream.upstreams import SuspectedCalls
from zpipe.core.work.delivery import Slice
from zpipe.daemon.storage.call_journal import CallJournal, in_call, producer_of
from zpipe.folders import unwritable
from zpipe.runtime.environment import LAST_DEATH
from zpipe.runtime.exception_text import clean
from zpipe.runtime.logs import fields
from zpipe.runtime.places import read_json, write_json

ENDED = "ended"
"""The file that says how a life ended, in systemd's words: $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS. It may be an orderly end."""
KILLED = "killed by "
UNKNOWN = "unknown (kill -9, or no memory left)"
TRACEBACK_CHARACTERS = 8000
MOST_IDS, ID_CHARACTERS = 10, 200
"""How many ids of messages in the call are logged, and how much of each: a batch may have thousands, of any length."""
_RESULTS = {
    "watchdog": " (watchdog)",
    "oom-kill": " (out of memory)",
    "timeout": " (it took too long to start or to stop)",
}
_FATAL = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Illegal instruction": "SIGILL",
    "Floating": "SIGFPE",
}
"""What faulthandler calls signals."""


@dataclass(frozen=True)
class LastLife:
    """How the life before ended. Without arguments: in order, or there was none.

    suspects  messages in a call; these and `traceback` (of a fatal signal, or "") may be of an earlier run, all else is of this
    how       "killed by SIGSEGV", "exit code 1", or UNKNOWN; "" if it did not crash
    ids       of messages in the call, as far as they are known;  at  when this was found, in seconds since the epoch
    restarts  crashes since the last start that followed an orderly end, by what ended them
    """

    suspects: SuspectedCalls = field(default_factory=dict)
    how: str = ""
    traceback: str = ""
    ids: tuple[str, ...] = ()
    at: float = 0.0
    restarts: Mapping[str, int] = field(default_factory=dict)

    @property
    def messages(self) -> int:
        """How many were in a call."""
        return sum(stop - start for _, rows in self.suspects.values() for start, stop, _ in rows)

    def write_to(self, log: logging.Logger) -> None:
        """Logs what was found, if that life crashed."""
        if not (self.how or self.suspects or self.traceback):
            return
        what = {"how": self.how or None, "messages_in_call": self.messages, "ids": ",".join(self.ids) or None}
        log.warning(fields(event="crash.found", **what, restarts=sum(self.restarts.values())))
        for line in self.traceback.splitlines():
            log.warning(line)

    def as_json(self) -> dict[str, Any] | None:
        """The value of `last_crash` in snapshots."""
        if not self.how:
            return None
        return {"how": self.how, "at": self.at, "messages_in_call": self.messages, "ids": list(self.ids)}

    def was_in_call(self, piece: Slice) -> bool:
        """Whether that life ended in a call of this message. Otherwise its end says nothing about the message."""
        if not piece.section.suspicion:
            return False
        producer, incarnation = producer_of(piece)
        suspected, rows = self.suspects.get(producer, ("", []))
        number = piece.section.first + piece.start
        return suspected == incarnation and any(start <= number < stop for start, stop, _ in rows)


class LastLifeFiles:
    """The files of one instance, in its state folder."""

    def __init__(self, folder: Path) -> None:
        self._calls = folder / "calls"
        self._traceback = folder / "crash.txt"
        self._ended = folder / ENDED
        self._restarts = folder / "restarts.json"

    def found(self, env: Mapping[str, str], cut_short: bool) -> LastLife:
        """How the life before ended. To be called once, before `begin`.

        cut_short  there was one, and it did not end in order
        """
        traceback, ended = _text(self._traceback)[:TRACEBACK_CHARACTERS], _text(self._ended)
        with suppress(OSError):
            self._ended.unlink(missing_ok=True)
            if not cut_short:
                self._restarts.unlink(missing_ok=True)
        suspects, ids = in_call(self._calls)
        shown = tuple(clean(id)[:ID_CHARACTERS] for id in ids[:MOST_IDS])
        if not cut_short:  # an earlier run's, whose dead letters may still be replayed here
            return LastLife(suspects, traceback=traceback, ids=shown)
        how = env.get(LAST_DEATH) or how_ended(ended) or _fatal_signal(traceback) or UNKNOWN
        return LastLife(suspects, how, traceback, shown, time.time(), self._count(reason_of_crash(how)))

    def _count(self, reason: str) -> dict[str, int]:
        """The crashes so far, and this one. What cannot be kept (a full disk) is not counted the next time."""
        kept = read_json(self._restarts)
        restarts = {key: times for key, times in kept.items() if isinstance(times, int)}
        restarts[reason] = restarts.get(reason, 0) + 1
        with suppress(OSError):
            write_json(self._restarts, restarts)
        return restarts

    def begin(self, workers: int) -> CallJournal:
        """Files for this life. Raises OperatorError."""
        try:
            # Not closed: the faulthandler writes to its descriptor for as long as the process lives.
            self._file = self._traceback.open("w")
            faulthandler.enable(self._file)
            return CallJournal(self._calls, workers)
        except OSError as error:
            raise unwritable(self._calls, error) from None

    def failed(self, code: int) -> None:
        """This life fails by itself, which the next one is to know. (systemd writes the same after it.)"""
        with suppress(OSError):
            self._ended.write_text(f"exit-code exited {code}\n")


def how_ended(words: str) -> str:
    """systemd's words as `zpipe run` has them; "" where there are none. Signals come without SIG."""
    match words.split():
        case [_, "exited", code]:
            return f"exit code {code}"
        case [result, "killed" | "dumped", name]:
            return f"{KILLED}SIG{name}{_RESULTS.get(result, '')}"
        case _:
            return ""


def reason_of_crash(how: str) -> str:
    """A short form that is one of few: "SIGSEGV", "exit code 1", "unknown"."""
    return "unknown" if how == UNKNOWN else how.removeprefix(KILLED)


def _fatal_signal(traceback: str) -> str:
    _, _, error = traceback.partition("Fatal Python error: ")
    return next((f"{KILLED}{name}" for words, name in _FATAL.items() if error.startswith(words)), "")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
