"""Items in the order of a number that may change. May live here: that order; nothing that knows what is ordered.

Used for what would otherwise be looked for among all sessions: whom to send to next, which statement is due first.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class PriorityQueue(Generic[Item]):
    """Each item is in it once. The lowest number comes first; of equal numbers, the one that was put first.

    A sorted list: up to some hundred items it is cheaper than a heap, from which nothing can be taken out.
    """

    def __init__(self) -> None:
        self._ordered: list[tuple[float, int, Item]] = []
        self._entries: dict[Item, tuple[float, int, Item]] = {}
        self._put = 0

    def __len__(self) -> int:
        return len(self._ordered)

    def __contains__(self, item: Item) -> bool:
        return item in self._entries

    def __iter__(self) -> Iterator[Item]:
        """In order. The queue must not change meanwhile."""
        return (item for _, _, item in self._ordered)

    @property
    def first(self) -> Item | None:
        return self._ordered[0][2] if self._ordered else None

    @property
    def lowest(self) -> float:
        """The number of the first item; infinity if there is none."""
        return self._ordered[0][0] if self._ordered else float("inf")

    def put(self, item: Item, number: float) -> None:
        """Orders the item by this number from now on, whether or not it was here."""
        known = item in self._entries
        if known and len(self._ordered) > 1:
            self.discard(item)
            known = False
        self._put += 1
        entry = self._entries[item] = (number, self._put, item)
        if known:
            self._ordered[0] = entry
        else:
            insort(self._ordered, entry)

    def discard(self, item: Item) -> None:
        entry = self._entries.pop(item, None)
        if entry is not None:
            del self._ordered[bisect_left(self._ordered, entry)]
