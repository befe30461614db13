"""What comes in by a socket. May live here: its shape, so that whoever handles it need not know ZeroMQ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(slots=True)
class Arrival:
    """Something came in. `what` says by which socket; `key` whose it is; `frames` are undecoded."""

    what: Literal["parcel", "feedback", "upstream", "up", "down", "ready", "lost", "fd"]
    key: Any
    frames: list[bytes]
