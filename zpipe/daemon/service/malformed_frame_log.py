"""Frames that broke the protocol, in the log: each fault with who sent it, by which socket, and what was wrong.

May live here: what makes two faults the same one. Which of them get a line is a limit as for all lines that others can cause.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from zpipe.daemon.service.limited_log import LineLimit
from zpipe.errors import PeerError
from zpipe.runtime.logs import fields

FAULTS_A_MINUTE = 10
"""Distinct ones: more than a peer of another version makes, and few enough to be read."""
_NUMBER = re.compile(r"\d+")


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
