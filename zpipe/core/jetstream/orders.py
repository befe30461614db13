"""What a JetStream link asks of its shell: the `what` of a `ToLink`. Values only; must not live here: deciding or doing it.

None of them blocks, and each may be lost with the connection, which the event `Lost` tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

LinkKey = tuple[str, str, str, str]
"""(pipeline, upstream stage, outlet, consumer stage)."""


class Publish(NamedTuple):
    """Answered by `Stored` or `NotStored` with the same number."""

    link: LinkKey
    number: int
    payload: bytes
    messages: int


class Pull(NamedTuple):
    """Ask for so many parcels. Each comes by `Arrived`, or is counted in a `PullOver`."""

    link: LinkKey
    parcels: int


class Acknowledge(NamedTuple):
    """(sequence, reply) of each; answered by `Acked`."""

    link: LinkKey
    deliveries: Sequence[tuple[int, str]]


class Extend(NamedTuple):
    """Tell the server that these deliveries are worked on, so that it does not give them to another instance."""

    replies: Sequence[str]


class HandBack(NamedTuple):
    """Have the server give these deliveries to another instance at once."""

    replies: Sequence[str]


class Look(NamedTuple):
    """Answered by `Figures` with the same number."""

    link: LinkKey
    number: int


class Write(NamedTuple):
    """An entry of the bucket; answered by `Written`."""

    key: str
    value: bytes


class Forget(NamedTuple):
    """Entries of the bucket that are of no use to anybody any more. Not answered."""

    keys: Sequence[str]


Order = Publish | Pull | Acknowledge | Extend | HandBack | Look | Write | Forget
