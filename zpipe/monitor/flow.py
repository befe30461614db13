"""How full a link is and where it is heading. May live here: arithmetic on one link's numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from zpipe.core.policy import Bound, LinkPolicy

_UNSENT = Bound(LinkPolicy().unsent_messages, LinkPolicy().unsent_bytes)


class LinkName(NamedTuple):
    upstream: str
    outlet: str
    consumer: str


def fill(link: dict[str, Any], unacked: Bound) -> float:
    """How much of a producer's bounds a link takes up, 0 to 1, by the bound that is nearest."""
    unsent, unsent_bytes = link.get("unsent", 0), link.get("unsent_bytes", 0)
    held, held_bytes = unsent + link.get("in_flight", 0), unsent_bytes + link.get("in_flight_bytes", 0)
    shares: tuple[float, ...] = (
        unsent / min(_UNSENT.messages, unacked.messages),
        unsent_bytes / min(_UNSENT.bytes, unacked.bytes),
        held / unacked.messages,
        held_bytes / unacked.bytes,
    )
    return max(shares)


def room(link: dict[str, Any], unacked: Bound) -> int:
    """How many more messages a producer can put on its link before it has to wait."""
    unsent, unsent_bytes = link.get("unsent", 0), link.get("unsent_bytes", 0)
    credit: int = sum(consumer.get("credit", 0) for consumer in link.get("consumers", ()))
    left: int = min(_UNSENT.messages, unacked.messages) - unsent
    if unsent_bytes:
        left = min(left, int((_UNSENT.bytes - unsent_bytes) * unsent / unsent_bytes))
    unacked_left: int = unacked.messages - unsent - link.get("in_flight", 0)
    return max(0, min(left + credit, unacked_left))


def closes_in(room: float, may_read: float, step: int, rate: float, growth: float) -> float:
    """Seconds until a source has to wait, that reads `rate` a second while its link grows by `growth` a second.

    It may take `may_read` more; that is made `room` anew each time that it can be raised by a `step`, so the source waits
    before all room is used up: by then up to a step of it is left."""
    if rate <= growth or rate <= 0.0:
        return may_read / rate if rate > 0.0 else room / growth
    passed = 0.0
    while True:
        raised_in = max(step - (room - may_read), 0.0) / (rate - growth)
        if may_read / rate <= raised_in:
            return passed + may_read / rate
        passed += raised_in
        room = may_read = max(room - growth * raised_in, 0.0)


def step_of(unacked: Bound) -> int:
    """By how much a source's limit is raised at least."""
    return max(1, min(unacked.messages, _UNSENT.messages) // 4)


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


def slope(points: Collection[tuple[float, int]], shortest_s: float) -> float | None:
    """Messages a second by which a depth grows: the line of least squares through (time, depth).

    None while there are too few points to say, or if the depth changed by less than a message, or up and down.
    """
    times, depths = [at for at, _ in points], [depth for _, depth in points]
    span = times[-1] - times[0]
    if len(times) < 3 or span < shortest_s:
        return None
    mid_time, mid_depth = sum(times) / len(times), sum(depths) / len(depths)
    spread = sum((at - mid_time) ** 2 for at in times)
    together = sum((at - mid_time) * (depth - mid_depth) for at, depth in zip(times, depths, strict=True))
    by = together / spread
    scatter = sum((depth - mid_depth) ** 2 for depth in depths)
    # Less than half of the scatter explained by the line: it goes up and down, not anywhere.
    explained = together**2 / (spread * scatter) if scatter else 0.0
    return by if abs(by) * span >= 1.0 and explained >= 0.5 else None
