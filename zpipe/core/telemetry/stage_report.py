"""What a stage reports of itself at each interval: counts, and what was measured since the report before.

Rates over the interval belong here, and putting a snapshot together. Must not live here: counting.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from zpipe.core.downstream.downstream import Downstream
from zpipe.core.ledger import Counts
from zpipe.core.lifecycle import State
from zpipe.core.processing.processing import Processing
from zpipe.core.source_positions import SourcePositions
from zpipe.core.telemetry import snapshot
from zpipe.core.upstream.upstreams import Upstreams


def following(now: float, interval_s: float) -> float:
    """When the next snapshot is due: at a whole multiple of the interval. The instances of a machine share its monotonic clock,
    so they take theirs at the same instants, and the two ends of a link can be laid beside each other."""
    at = (math.floor(now / interval_s) + 1) * interval_s
    # A quotient that was rounded down may give this very instant again.
    return at if at - now > 1e-6 * interval_s else at + interval_s


class StageStatus(NamedTuple):
    """What a stage is doing, in a few figures.

    done        messages completed, filtered or dead;  acked: outputs that are finished below
    finished    (a head) messages that are finished in every sink; None: it is no head
    sends       it has links out of it;  unsent, in_flight: outputs on them
    leaving     this instance alone goes;  draining: the operator wants the stream to end
    """

    state: State
    paused: bool
    stopped_by: str
    queued: int
    in_process: int
    sends: bool
    unsent: int
    in_flight: int
    done: int
    acked: int
    finished: int | None
    rate_out: float
    dead_stored: int
    leaving: bool
    draining: bool
    waiting_for: list[str]

    @property
    def shutting_down(self) -> bool:
        """It is on its way out, or is to be."""
        return self.leaving or self.draining or self.state not in (State.STARTING, State.RUNNING)


class StageReport:
    """Remembers where the last report stood."""

    def __init__(
        self, processing: Processing, source: SourcePositions | None, upstreams: Upstreams, now: float
    ) -> None:
        self._processing = processing
        self._source = source
        self._upstreams = upstreams
        self._at = now
        self._received = 0
        self._done = 0
        self.rate_out = 0.0
        self._measured: dict[str, Any] = {}

    def status(
        self, state: State, counts: Counts, downstream: Downstream, leaving: bool, draining: bool
    ) -> StageStatus:
        processing, source = self._processing, self._source
        return StageStatus(
            state=state,
            paused=processing.paused,
            stopped_by=processing.breaker.stopped_by,
            queued=counts.queued,
            in_process=counts.in_process,
            sends=bool(downstream.links),
            unsent=downstream.unsent,
            in_flight=downstream.in_flight,
            done=counts.done,
            acked=downstream.acked,
            finished=source.finished if source is not None else None,
            rate_out=self.rate_out,
            dead_stored=processing.breaker.stored_messages,
            leaving=leaving,
            draining=draining,
            waiting_for=self._upstreams.waiting_for(),
        )

    def take(self, parts: snapshot.Parts, now: float, least_s: float) -> dict[str, Any]:
        """A snapshot as PROTOCOL.md describes it. What is measured is of the time since the report before.

        least_s  one that comes sooner (somebody asked, or the state has changed) gives what the one before has measured: over
                 so short a time nothing can be said, and the next would lack what this one took
        """
        processing, source = self._processing, self._source
        taken = snapshot.of_stage(parts, now)
        if now - self._at >= least_s or not self._measured:
            self._measured = self._measure(parts.counts, now)
        taken |= self._measured
        taken["latency_histogram"] = (
            {"in_stage": processing.in_stage.so_far(), "since_origin": processing.since_origin.so_far()}
            if source is None
            else {}
        )
        taken["service_rate"] = parts.inlet.rate
        taken["paused"] = processing.paused
        taken["limit"] = processing.limiter.report(now)
        taken["stopped_by"] = processing.breaker.stopped_by
        taken["dead_stored"] = processing.breaker.stored_messages
        taken["dead_stored_bytes"] = processing.breaker.stored_bytes
        taken["replaying"] = len(processing.replays)
        taken["retrying"] = processing.retries.messages
        taken["finished"] = source.finished if source is not None else None
        taken["waiting_for"] = [] if parts.lifecycle.state is State.STOPPED else self._upstreams.waiting_for()
        return taken

    def _measure(self, counts: Counts, now: float) -> dict[str, Any]:
        processing, seconds = self._processing, max(now - self._at, 1e-9)
        done = counts.done
        rate_in, self.rate_out = (counts.received - self._received) / seconds, (done - self._done) / seconds
        self._at, self._received, self._done = now, counts.received, done
        processing.spend(now)
        return {
            "rate_in": rate_in,
            "rate_out": self.rate_out,
            "budget": processing.budget.take(),
            "latency": {"in_stage": processing.in_stage.take(), "since_origin": processing.since_origin.take()},
        }
