"""Messages, and the values by which a plugin answers one. Plugins, the core and the daemon all use these types.

Does not belong here: an import of anything else in zpipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from itertools import repeat
from typing import Any, Final

Position = Any
"""A place in a source, after which the source can continue. Any plain CBOR value: an int, a str, or a list of these."""


class Message:
    """One payload with an id.

    It is no dataclass since a stage makes one for each message that it handles, and the generated ``__init__`` of a frozen
    dataclass costs three times as much.

    payload   any plain CBOR value: None, bool, int, float, str, bytes, list, dict with str keys
    id        stays the same when the message is redelivered. A plugin leaves it empty, and the stage then derives it
    origin    when the source produced it, in seconds since the epoch; 0.0: the stage fills it in. A source that reads a record
              again, after a crash for example, produces it anew: the id stays, the origin changes
    headers   small facts that travel with the message, or None
    outlet    the named outlet by which it leaves; "" is the default one
    position  (sources) its place in the source
    attempt   1 for the first delivery, more for a redelivery or a retry
    source    the input of the stage by which it came, as the config names it: "read", or "parse.errors". It is "" in a message
              that a plugin makes
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


def received(
    payloads: list[Any],
    ids: list[str],
    origins: list[float],
    headers: Iterable[dict[str, Any] | None],
    outlet: str,
    attempt: int,
    source: str,
) -> list[Message]:
    """Messages that came together, of their fields in parallel arrays. To call ``Message`` for each takes half as long again."""
    messages = list(map(object.__new__, repeat(Message, len(payloads))))
    one: Message
    for one, one.payload, one.id, one.origin, one.headers in zip(
        messages, payloads, ids, origins, headers, strict=False
    ):
        one.outlet = outlet
        one.position = None
        one.attempt = attempt
        one.source = source
    return messages


class _Drop(Enum):
    DROP = "DROP"

    def __repr__(self) -> str:
        return "zpipe.DROP"


DROP: Final = _Drop.DROP
"""Returned by a process hook to filter a message on purpose. The message is acknowledged."""


def many(outputs: Iterable[Any]) -> Iterator[Any]:
    """Returned by a process hook to give many outputs, each a message of its own. Without it, a list or a tuple is one payload.

    It returns an iterator and has no type of its own, so that one rule covers this and generator functions.
    """
    return iter(outputs)


class Release:
    """An output that was made from messages that were held: what `Context.release` returns."""

    __slots__ = ("messages", "output")

    def __init__(self, output: Any, messages: list[Message]) -> None:
        self.output = output
        self.messages = messages


class BadRecord:
    """Yielded by a source in place of a payload that it could not read. It becomes a dead letter of the source's own stage.

    reason  one line for people
    raw     what the source has there, as far as it could be read
    """

    __slots__ = ("raw", "reason")

    def __init__(self, reason: str, raw: bytes | str) -> None:
        self.reason = reason
        self.raw = raw
