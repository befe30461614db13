"""Logs with a limit for lines that others can cause: that a peer was refused, that an operator asked for something, that a frame
broke the protocol.

Which of these lines are written belongs here. Must not live here: who is refused. Without the limit whoever reaches a socket
could fill the disk, or hide a fault of somebody else behind its own.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable
from dataclasses import dataclass

from zpipe.core.actions import LogEvent
from zpipe.errors import PeerError
from zpipe.runtime.logs import TRACEBACK, fields

MINUTE_S = 60.0
LINES_A_MINUTE = 60
"""The most lines of one event: people and scripts that ask for something stay far below it."""
FAULTS_A_MINUTE = 10
"""Distinct faults: more than a peer of another version makes, and few enough to be read."""
_NUMBER = re.compile(r"\d+")


class LineLimit:
    """For the lines of one event: each distinct one is written once in MINUTE_S, and at most `most` of them all."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._written: dict[Hashable, float] = {}
        self._left_out = 0

    def admit(self, line: Hashable, now: float) -> int | None:
        """None if the line is not to be written; else how many lines were left out since the last one that was written."""
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
        """Logs the event, unless the same was logged in the last minute, or too many of its name were."""
        text = fields(event=event.event, **event.fields)
        limit = self._limits.setdefault(event.event, LineLimit(LINES_A_MINUTE))
        left_out = limit.admit(object() if event.repeats else event.alike or text, now)
        if left_out is not None:
            text += f" {fields(left_out=left_out)}" if left_out else ""
            level = logging.WARNING if event.warning else logging.INFO
            self._log.log(level, text, extra={TRACEBACK: event.traceback})


@dataclass(slots=True)
class Source:
    """Where a frame came from.

    socket  in words: inbox, feedback, control, or the upstream's of either name
    peer    the instance, as far as the core knows;  sender: what the transport knows: a user and a process, or a host
    """

    socket: str
    peer: str = ""
    sender: str = ""


class MalformedFrameLog:
    """Used by one thread. A fault is distinct by its source, the kind of frame and the field; what stood in the field is not
    looked at, or random values would each be a new one."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._limit = LineLimit(FAULTS_A_MINUTE)

    def note(self, source: Source, error: PeerError, now: float) -> None:
        """Logs it, unless the same was logged in this minute, or FAULTS_A_MINUTE others: the next line says how many frames
        were left out since the line before."""
        what = error.field or _NUMBER.sub("N", str(error).partition(":")[0])
        left_out = self._limit.admit((source.socket, source.peer, source.sender, error.kind, what), now)
        if left_out is None:
            return
        self._log.warning(
            fields(
                event="peer.malformed",
                socket=source.socket,
                peer=source.peer or "unknown",
                sender=source.sender or None,
                frame=error.kind or "unknown",
                field=error.field or None,
                reason=error,
                left_out=left_out or None,
            )
        )
