"""Something that came in by a socket. Does not belong here: how it is read, and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from zpipe.transport.connections import sender_of

What = Literal[
    "parcel", "feedback", "control", "upstream", "announcement", "up", "down", "ready", "lost", "fd", "refusal"
]


@dataclass(slots=True)
class Arrival:
    """
    what    by which socket it came (upstream: the feedback of an upstream instance, announcement: its control), or what happened
    key     the instance, session or descriptor that it is of; of a refusal, the `Refusal`
    frames  undecoded; a large one from a socket that is bound here is a memoryview
    origin  if it came by a socket that is bound here: what the transport needs to tell who sent it
    """

    what: What
    key: Any
    frames: list[Any]
    origin: Any = None


def sender(arrival: Arrival) -> str:
    """What is known of who sent it: a user and a process, or a host; "" if nothing is."""
    return sender_of(arrival.origin)
