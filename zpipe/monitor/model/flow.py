"""How full a link is, and how much room is left on it. May live here: arithmetic on one link's numbers at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from zpipe.core.policy import Bound, LinkPolicy

UNSENT = Bound(LinkPolicy().unsent_messages, LinkPolicy().unsent_bytes)


class LinkName(NamedTuple):
    upstream: str
    outlet: str
    consumer: str


def fill(link: dict[str, Any], unacked: Bound) -> float:
    """How much of a producer's bounds a link takes up, 0 to 1, by the bound that is nearest."""
    unsent, unsent_bytes = link.get("unsent", 0), link.get("unsent_bytes", 0)
    held, held_bytes = unsent + link.get("in_flight", 0), unsent_bytes + link.get("in_flight_bytes", 0)
    shares: tuple[float, ...] = (
        unsent / min(UNSENT.messages, unacked.messages),
        unsent_bytes / min(UNSENT.bytes, unacked.bytes),
        held / unacked.messages,
        held_bytes / unacked.bytes,
    )
    return max(shares)


def room(link: dict[str, Any], unacked: Bound) -> int:
    """How many more messages a producer can put on its link before it has to wait."""
    unsent, unsent_bytes = link.get("unsent", 0), link.get("unsent_bytes", 0)
    credit: int = sum(consumer.get("credit", 0) for consumer in link.get("consumers", ()))
    held, held_bytes = unsent + link.get("in_flight", 0), unsent_bytes + link.get("in_flight_bytes", 0)
    size = held_bytes / held if held else 0.0
    most_unsent, most = min(messages_of(UNSENT, size), messages_of(unacked, size)), messages_of(unacked, size)
    return max(0, int(min(most_unsent - unsent + credit, most - held)))


def messages_of(bound: Bound, size: float) -> float:
    """How many messages of a size it allows."""
    return min(float(bound.messages), bound.bytes / size) if size else float(bound.messages)


def split(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts in proportion to `weights` (equal ones if all are 0). The parts add up to it."""
    if not sum(weights):
        weights = [1] * len(weights)
    whole, parts, past, given = sum(weights), [], 0, 0
    for weight in weights:
        past += weight
        parts.append(total * past // whole - given)
        given += parts[-1]
    return parts
