"""Messages that come again by a new session while their first copies are still held here.

Recognizing them belongs here, and acking them when the first copy is finished. Must not live here: the queue, or what a
producer has sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zpipe.core.ledger import Counts
from zpipe.core.ranges import RangeSet
from zpipe.core.upstream.inlet_session import ParcelDelivery
from zpipe.core.work.delivery import Slice


class Duplicates:
    """`counts` are the stage's. Deliveries whose session has ended are `kept` until their messages are finished."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._kept: list[ParcelDelivery] = []

    def keep(self, deliveries: Iterable[ParcelDelivery]) -> None:
        """Their session has ended. Their messages may come again before they are finished."""
        self._kept += deliveries

    def forget(self, delivery: ParcelDelivery) -> None:
        """All of it is finished."""
        self._kept.remove(delivery)

    def __bool__(self) -> bool:
        return bool(self._kept)

    def pass_over(self, known: RangeSet, arrived: Slice) -> Iterator[Slice]:
        """Yields each message of the slice that is new: its number is not among those `known` of its producer.

        Room for a duplicate is free at once. It is acked when the copy that is held here is finished, or now if it is already.
        """
        delivery, first = arrived.delivery, arrived.section.first
        assert isinstance(delivery, ParcelDelivery)
        for at in range(arrived.count):
            one = arrived.part(at, at + 1)
            if first + one.start not in known:
                yield one
                continue
            self._counts.duplicates += 1
            delivery.session.messages.released += 1
            delivery.session.bytes.released += one.size
            index = arrived.offset + one.start
            for earlier in self._kept:
                held = earlier.find(first + one.start) if _same_numbers(earlier, delivery) else None
                if held is not None:
                    earlier.adopt(held, delivery, index)
                    break
            else:
                delivery.finish(index, index + 1)


def _same_numbers(one: ParcelDelivery, other: ParcelDelivery) -> bool:
    """What both have is numbered in one sequence, so the same number is the same message."""
    first, second = one.session.producer, other.session.producer
    return first[:3] == second[:3] and first.sequence == second.sequence
