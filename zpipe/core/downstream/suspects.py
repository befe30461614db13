"""Messages that may have killed a consumer, and how strongly each is suspected. Must not live here: sending them.

A message that was in a call of the plugin when its process died is suspected. If it was alone in the call, it is to blame. If it
was with others, it may be: it is sent to a consumer by itself and run there alone, so that the next death shows which it was.
"""

from __future__ import annotations

from collections.abc import Iterator

from zpipe.core.wire.section import Section


class Suspects:
    """Suspicion by message number on one link: 1 after a death among others, n + 1 after n deaths alone. False if empty."""

    def __init__(self) -> None:
        self._by_number: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._by_number)

    def accuse(self, rows: list[list[int]], lowest: int, stop: int) -> None:
        """`rows` are [start, stop, alone]; only numbers from `lowest` up to but without `stop` are still to be acked."""
        for first, last, alone in rows:
            for number in range(max(first, lowest), min(last, stop)):
                self._by_number[number] = max(self._by_number.get(number, 0), 1) + min(alone, 1)

    def discard_below(self, lowest: int) -> None:
        """Messages below `lowest` are acked, so they have killed nobody."""
        self._by_number = {number: n for number, n in self._by_number.items() if number >= lowest}

    def isolate(self, section: Section) -> Iterator[Section]:
        """The section, with each suspect a section of its own that says how much it is suspected."""
        return section.isolate(self._by_number)
