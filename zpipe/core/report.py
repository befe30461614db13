"""What a stage reports of itself at each interval: counts, and what was measured since the report before.

May live here: rates over the interval and putting the snapshot together. Counting is done elsewhere.
"""

from __future__ import annotations

from typing import Any

from zpipe.core import snapshot
from zpipe.core.intake import Intake
from zpipe.core.lifecycle import State
from zpipe.core.processing import Processing
from zpipe.core.source import Source


class Report:
    """Remembers where the last report stood."""

    def __init__(self, now: float) -> None:
        self._at = now
        self._received = 0
        self._done = 0
        self.rate_out = 0.0

    def take(
        self, parts: snapshot.Parts, processing: Processing, source: Source | None, intake: Intake, now: float
    ) -> dict[str, Any]:
        """A snapshot as PROTOCOL.md describes it. Rates are messages a second since the last call."""
        counts, queue = parts.counts, parts.inlet.queue
        taken = snapshot.of_stage(parts, now - queue[0].arrived_at if queue else 0.0)
        seconds = max(now - self._at, 1e-9)
        done = counts.completed + counts.filtered + counts.dead
        taken["rate_in"] = (counts.received - self._received) / seconds
        taken["rate_out"] = self.rate_out = (done - self._done) / seconds
        self._at, self._received, self._done = now, counts.received, done
        taken["budget"] = processing.budget.take()
        taken["latency"] = {"in_stage": processing.in_stage.take(), "since_origin": processing.since_origin.take()}
        taken["service_rate"] = parts.inlet.rate
        taken["paused"] = processing.paused
        taken["limit"] = processing.calls.report(now)
        taken["stopped_by"] = processing.guard.stopped_by
        taken["replaying"] = len(processing.replays)
        taken["may_read"] = processing.left_to_read
        taken["retrying"] = processing.retries.messages
        taken["finished"] = source.finished if source is not None else None
        taken["waiting_for"] = [] if parts.state == State.STOPPED.value else intake.waiting_for()
        return taken
