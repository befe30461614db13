"""What a plugin sees of the pipeline: messages, and what a stage may answer with.

May live here: the value types that plugins, the core and the daemon all speak. It knows nothing of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, Final

Position = Any
"""A place in a source: any plain CBOR value (int, str, list of those) that the source can resume after."""


class Message:
    """One payload with an id.

    A slotted class, not a dataclass: a stage makes one for each message it handles, and the generated
    ``__init__`` of a frozen dataclass costs three times as much.

    payload   any plain CBOR value: None, bool, int, float, str, bytes, list, dict with str keys
    id        stable over redelivery; empty in a message that a plugin makes: the stage then derives it
    origin    when the source produced it, seconds since the epoch (0.0: the stage fills it in). A source that reads a record
              again, after a crash for one, produces it anew: its id stays, its origin does not
    headers   small facts that travel along, or None
    outlet    which named outlet it leaves by; "" is the default one
    position  (sources) where in the source it stands
    attempt   1 for a first delivery, more for a redelivery or a retry
    source    by which input of the stage it came, as its config names it: "read", or "parse.errors". "" in a message that a
              plugin makes, and in a dead letter that is tried again by a stage with several inputs
    """

    __slots__ = ("attempt", "headers", "id", "origin", "outlet", "payload", "position", "source")

    def __init__(
        self,
        payload: Any,
        id: str = "",
        origin: float = 0.0,
        headers: dict[str, Any] | None = None,
        outlet: str = "",
        position: Position = None,
        attempt: int = 1,
        source: str = "",
    ) -> None:
        self.payload = payload
        self.id = id
        self.origin = origin
        self.headers = headers
        self.outlet = outlet
        self.position = position
        self.attempt = attempt
        self.source = source

    def __repr__(self) -> str:
        return f"Message({self.payload!r}, id={self.id!r})"


class _Drop(Enum):
    DROP = "DROP"

    def __repr__(self) -> str:
        return "zpipe.DROP"


DROP: Final = _Drop.DROP
"""Returned by a process hook: the message is filtered on purpose, and acknowledged."""


def many(outputs: Iterable[Any]) -> Iterator[Any]:
    """Returned by a process hook: each of the outputs is a message of its own. Without it a list or a tuple is one payload.

    An iterator and no type of its own: what a generator function returns is one too, so one rule covers both.
    """
    return iter(outputs)


class BadRecord:
    """Yielded by a source in place of a payload it could not read: becomes a dead letter of the source's own stage.

    reason  one line for people;  raw  what stands in the source there, as far as it could be read
    """

    __slots__ = ("raw", "reason")

    def __init__(self, reason: str, raw: bytes | str) -> None:
        self.reason = reason
        self.raw = raw
