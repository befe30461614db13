"""Slices of messages for tests of tasks, without a link that they came by."""

from __future__ import annotations

from zpipe.core.wire import section
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Slice


def slices(*counts: int) -> list[Slice]:
    made = []
    for count in counts:
        body = section.encode([str(n) for n in range(count)], [0.0] * count, list(range(count)), None)
        one = Section(body, count)
        delivery = Delivery([one], lambda _: None)
        made.append(Slice(delivery, one, 0, 0, count, 0.0))
    return made
