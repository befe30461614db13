"""What a sink has seen, in a file mapped into memory: the harness reads it while the sink runs, whatever the sink is.

Does not belong here: what is made of it. Sinks in every kind of process import this, so it imports little.
"""

from __future__ import annotations

import mmap
import time
from pathlib import Path

AGES = 1 << 20
"""Ages that a file has room for; later ones are not kept."""
_COUNT, _AGES, _FIRST, _HEAD = 0, 1, 2, 4


class Tally:
    """Slots of 8 bytes: the count of messages, the number of ages, the moment of the first message, then ages in seconds.

    A sink notes only every so many messages, so that noting does not count in what is measured.
    """

    def __init__(self, path: str | Path) -> None:
        with Path(path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._numbers = memoryview(self._map).cast("q")
        self._seconds = memoryview(self._map).cast("d")

    @classmethod
    def create(cls, path: Path) -> Tally:
        with path.open("wb") as file:
            file.truncate(8 * (_HEAD + AGES))  # sparse: pages that nobody writes take no room
        return cls(path)

    # ---- the sink

    def note(self, count: int, age_s: float | None = None) -> None:
        if not self._seconds[_FIRST]:
            self._seconds[_FIRST] = time.monotonic()
        if age_s is not None and (at := self._numbers[_AGES]) < AGES:
            self._seconds[_HEAD + at] = age_s
            self._numbers[_AGES] = at + 1
        self._numbers[_COUNT] = count

    # ---- the harness

    @property
    def count(self) -> int:
        return self._numbers[_COUNT]

    @property
    def ages(self) -> int:
        return self._numbers[_AGES]

    @property
    def first_at(self) -> float:
        """The moment of the first note on the monotonic clock, which is one for all processes; 0 before it."""
        return self._seconds[_FIRST]

    def ages_s(self, start: int, stop: int) -> list[float]:
        return list(self._seconds[_HEAD + start : _HEAD + stop])
