"""The source of a head in a simulation. May live here: records that come at a pace, read up to a limit."""

from __future__ import annotations

from zpipe.core.work import Chunk, DeadLetter, Past
from zpipe.testing.clock import NEVER
from zpipe.testing.plugin import Outputs, Spec


class Source:
    """The records of a head from position `start` on. `over`: its end was reported."""

    def __init__(self, spec: Spec, start: int, completed: bool) -> None:
        self.limit = 0
        self.emitted = 0
        self.over = False
        self.closing = False
        self._spec = spec
        self._start = start
        self._left = 0 if completed else spec.messages - start
        self._due = 0.0

    @property
    def ready_at(self) -> float:
        """When there is something to read, or the end to report."""
        if self.over:
            return NEVER
        if self.closing or self._left == 0:
            return 0.0
        return self._due if self.limit > self.emitted else NEVER

    @property
    def read_s(self) -> float:
        """What it took for what it has given: while it waits for room it makes nothing."""
        return self.emitted * self._spec.record_s

    @property
    def ended(self) -> bool:
        return self.closing or self._left == 0

    def read(self, most: int, now: float) -> tuple[list[Chunk], int, int, list[DeadLetter]]:
        """Up to `most` records: sections by outlet, the position of the last, their number, and what cannot be read."""
        spec = self._spec
        count = self._paced(min(self._left, self.limit - self.emitted, most), now)
        first = self._start + self.emitted
        self.emitted += count
        self._left -= count
        outputs = Outputs(spec)
        letters = []
        for id in (f"{spec.name}:{n}" for n in range(first, first + count)):
            if spec.bad(id):
                letters.append(DeadLetter("unreadable", "", Past(attempts=1), None, id=id, raw=id))
            else:
                outputs.add(id, now, [[id, spec.name]])
        return outputs.chunks(of_all=True), first + count, count, letters

    def _paced(self, most: int, now: float) -> int:
        """How many of `most` the source has come to by now. While it may not read, no record is made in advance but one."""
        pace = self._spec.record_s
        if not pace:
            return most
        self._due = max(self._due, now) if self._due == 0.0 or most <= 0 else self._due
        count = min(most, 1 + int((now - self._due) / pace)) if now >= self._due else 0
        self._due += max(count, 0) * pace
        return count
