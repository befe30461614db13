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
    left: int = min(UNSENT.messages, unacked.messages) - unsent
    if unsent_bytes:
        left = min(left, int((UNSENT.bytes - unsent_bytes) * unsent / unsent_bytes))
    unacked_left: int = unacked.messages - unsent - link.get("in_flight", 0)
    return max(0, min(left + credit, unacked_left))


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
