"""What comes in by a socket. May live here: its shape, so that whoever handles it need not know ZeroMQ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(slots=True)
class Arrival:
    """Something came in.

    what    by which socket: upstream is the feedback of an upstream instance, announcement its control
    key     whose it is;  frames: undecoded
    origin  of what came by a socket that is bound here: what the transport needs to say who sent it
    """

    what: Literal["parcel", "feedback", "control", "upstream", "announcement", "up", "down", "ready", "lost", "fd"]
    key: Any
    frames: list[bytes]
    origin: Any = None
