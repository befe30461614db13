"""A set of whole numbers, kept as ranges. Must not live here: what the numbers stand for."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class RangeSet:
    """Numbers in half-open ranges [start, stop), disjoint, not touching, ascending.

    Acknowledged sequences and finished message numbers are long runs with few gaps, so a list of ranges stays short
    (the same structure as QUIC's ack ranges, RFC 9000 §19.3.1).
    """

    __slots__ = ("_starts", "_stops")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        """Adds [start, stop), merging with neighbours. An empty range adds nothing."""
        if start >= stop:
            return
        starts, stops = self._starts, self._stops
        if starts and stops[-1] == start:  # the usual case: the next in order
            stops[-1] = stop
            return
        low = bisect_left(stops, start)
        high = bisect_right(starts, stop)
        if low < high:
            start = min(start, starts[low])
            stop = max(stop, stops[high - 1])
        starts[low:high] = [start]
        stops[low:high] = [stop]

    def add_new(self, start: int, stop: int) -> bool:
        """Adds [start, stop) if none of it is in the set. False: some is, and nothing was added."""
        stops = self._stops
        if stops and stops[-1] == start < stop:  # the usual case: the next in order
            stops[-1] = stop
            return True
        if self.overlaps(start, stop):
            return False
        self.add(start, stop)
        return True

    def remove(self, start: int, stop: int) -> None:
        """Takes [start, stop) out, parting a range that reaches past both ends."""
        if start >= stop:
            return
        starts, stops = self._starts, self._stops
        low, high = bisect_right(stops, start), bisect_left(starts, stop)
        if low >= high:
            return
        kept = [(starts[low], start), (stop, stops[high - 1])]
        starts[low:high] = [a for a, b in kept if a < b]
        stops[low:high] = [b for a, b in kept if a < b]

    def discard_below(self, floor: int) -> None:
        """Forgets every number below `floor`."""
        starts, stops = self._starts, self._stops
        cut = bisect_right(stops, floor)
        del starts[:cut], stops[:cut]
        if starts and starts[0] < floor:
            starts[0] = floor

    @property
    def first_stop(self) -> int:
        """Where the first range ends; 0 if there is none."""
        return self._stops[0] if self._stops else 0

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._stops[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __len__(self) -> int:
        """The number of ranges, not of numbers."""
        return len(self._starts)

    def minus(self, other: RangeSet) -> Iterator[tuple[int, int]]:
        """The ranges of what is in this set and not in the other. Neither may change before the last of them."""
        for start, stop in self:
            at = bisect_right(other._stops, start)
            while at < len(other._starts) and other._starts[at] < stop:
                if start < other._starts[at]:
                    yield start, other._starts[at]
                start = other._stops[at]
                at += 1
            if start < stop:
                yield start, stop

    def overlaps(self, start: int, stop: int) -> bool:
        """Whether any number of [start, stop) is in the set."""
        at = bisect_right(self._stops, start)
        return start < stop and at < len(self._starts) and self._starts[at] < stop
