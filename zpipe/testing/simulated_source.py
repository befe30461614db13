"""The source of a head in a simulation. May live here: records that come at a rate, read up to a limit."""

from __future__ import annotations

from zpipe.core.events import SourceYielded
from zpipe.core.work.task import CallHistory, DeadLetter
from zpipe.testing.clock import NEVER
from zpipe.testing.simulated_plugin import Outputs, Spec


class SimulatedSource:
    """The records of a head from position `start` on. `over`: its end was reported."""

    def __init__(self, spec: Spec, start: int, completed: bool) -> None:
        self.emitted = 0
        self.over = False
        self._limit = 0
        self._closing = False
        self._spec = spec
        self._start = start
        self._left = 0 if completed else spec.messages - start
        self._due = 0.0

    @property
    def ready_at(self) -> float:
        """When there is something to read, or the end to report."""
        if self.over:
            return NEVER
        if self._closing or self._left == 0:
            return 0.0
        if self._limit <= self.emitted:
            return NEVER
        return self._due + (self._worth - 1) * self._spec.record_s

    @property
    def _worth(self) -> int:
        """Fewer are not taken in, unless it may give no more than that."""
        return min(self._spec.section, self._left, self._limit - self.emitted)

    def given(self, now: float) -> int:
        """What was taken in, and what waits for that."""
        return self.emitted + max(self._come(min(self._left, self._limit - self.emitted), now), 0)

    def committed(self, position: int) -> None:
        """Discards the position: a simulated source goes on from its disk."""

    def acked(self, ids: list[str]) -> None:
        """Discards the ids."""

    def set_limit(self, limit: int) -> None:
        self._limit = limit

    def close(self) -> None:
        self._closing = True

    def ends(self) -> bool:
        """Whether its end is to be reported now."""
        self.over = self._closing or self._left == 0
        return self.over

    def read(self, most: int, now: float) -> SourceYielded:
        """Up to `most` records."""
        spec = self._spec
        count = self._records_due(min(self._left, self._limit - self.emitted, max(most, spec.section)), now)
        first = self._start + self.emitted
        self.emitted += count
        self._left -= count
        outputs = Outputs(spec)
        letters = []
        for id in (f"{spec.name}:{n}" for n in range(first, first + count)):
            if spec.bad(id):
                letters.append(DeadLetter("unreadable", "", CallHistory(attempts=1), None, id=id, raw=id))
            else:
                outputs.add(id, now, [[id, spec.name]])
        return SourceYielded(outputs.chunks(of_all=True), first + count, count, letters)

    def _records_due(self, most: int, now: float) -> int:
        """How many of `most` the source has come to by now. While it may not read, no record is made in advance but one."""
        if not self._spec.record_s:
            return most
        self._due = max(self._due, now) if self._due == 0.0 or most <= 0 else self._due
        count = self._come(most, now)
        if count < self._worth:
            return 0
        self._due += max(count, 0) * self._spec.record_s
        return count

    def _come(self, most: int, now: float) -> int:
        # Reckoned in records, a little early: what is due now must not be missed by a rounding.
        record_s = self._spec.record_s
        return min(most, 1 + int((now - self._due) / record_s + 1e-9)) if record_s and now >= self._due else 0
