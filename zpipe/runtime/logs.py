"""Logging: one event a line on stderr, key=value, with journald's levels. Must not live here: anything that logs.

In a terminal a traceback follows on lines of its own, since somebody wants to read it there and nobody searches it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from zpipe.runtime.environment import TERMINAL

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

TRACEBACK = "traceback_text"
"""The key in `extra` of a log call for the text of a traceback."""
MOST_SHOWN = 100
"""Tracebacks that are remembered, so that an equal one is not shown again in a terminal."""


def frames_of(traceback: str) -> tuple[str, ...]:
    """The lines of a traceback that name code. They are the same for equal faults, whatever the exception's text says."""
    return tuple(line for line in traceback.splitlines() if line.startswith("  File "))


def printable(text: str) -> str:
    """The text with escapes in place of what would move a cursor or change colours."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def fields(**values: Any) -> str:
    """`event=session.opened consumer=parse.1`: values with spaces or quotes are quoted, None is left out. What moves a cursor is
    escaped, since values come from peers and plugins: journalctl shows nothing of a line with such characters."""
    return " ".join(f"{key}={_quote(value)}" for key, value in values.items() if value is not None)


def _quote(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if text.isprintable() and text and not any(c in text for c in ' "=\\'):
        return text
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


class _Lines(logging.Formatter):
    def __init__(self, to_journal: bool, to_terminal: bool, instance: str) -> None:
        super().__init__()
        self._to_journal = to_journal
        self._to_terminal = to_terminal
        self._instance = instance
        self._shown: deque[tuple[str, ...]] = deque(maxlen=MOST_SHOWN)

    def format(self, record: logging.LogRecord) -> str:
        text = printable(record.getMessage())  # a plugin may log any text
        trace = self.formatException(record.exc_info) if record.exc_info else getattr(record, TRACEBACK, "")
        if not self._to_terminal:
            text += " " + fields(traceback=trace) if trace else ""
        elif (frames := frames_of(trace)) and frames in self._shown:
            text, trace = f"{text} {fields(traceback='as before')}", ""
        else:
            self._shown.append(frames)
            trace = "".join(f"\n    {printable(line)}" for line in trace.splitlines())
        if self._to_journal:  # the journal keeps time, unit and level itself
            return f"<{_PRIORITIES.get(record.levelno, 6)}>{text}"
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        text = f"{at}.{int(record.msecs):03d} {record.levelname.lower()} {self._instance} {text}"
        return text + trace if self._to_terminal else text


class _Stderr(logging.Handler):
    """Straight to the descriptor. A line that cannot be written (nobody reads, a full disk) is lost, and nothing else is.
    Python's own stream would keep it, and end the process with exit code 1 because of it."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), (self.format(record) + "\n").encode(errors="replace"))


def journal_is_stderr(env: Mapping[str, str]) -> bool:
    """Whether systemd connected stderr to the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    device, _, inode = env.get("JOURNAL_STREAM", "").partition(":")
    try:
        stat = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(stat.st_dev), str(stat.st_ino))


def is_terminal(env: Mapping[str, str]) -> bool:
    """Whether people read the log in a terminal as it comes."""
    try:
        return env.get(TERMINAL) == "1" or (TERMINAL not in env and os.isatty(sys.stderr.fileno()))
    except (OSError, ValueError):
        return False


def for_children(env: Mapping[str, str]) -> Mapping[str, str]:
    """The environment of daemons whose log is passed on to stderr. They write to a pipe, so they cannot see who reads it."""
    return {**env, TERMINAL: "1" if sys.stderr.isatty() else ""}


def start(instance: str, level: str, env: Mapping[str, str]) -> logging.Logger:
    """The daemon's logger, on stderr."""
    stream = _Stderr()
    stream.setFormatter(_Lines(journal_is_stderr(env), is_terminal(env), instance))
    log = logging.getLogger("zpipe")
    log.handlers[:] = [stream]
    log.setLevel(level.upper())
    log.propagate = False
    return log
