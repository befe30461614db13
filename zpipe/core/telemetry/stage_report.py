"""What a stage reports of itself at each interval: counts, and what was measured since the report before.

Rates over the interval belong here, and the snapshot with all that it says. Must not live here: counting, and what readers of a
snapshot make of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zpipe.core.downstream.downstream import Downstream
from zpipe.core.ledger import COUNTS, OTHERS, Counts
from zpipe.core.lifecycle import Lifecycle, State
from zpipe.core.processing.processing import Processing
from zpipe.core.source_positions import SourcePositions
from zpipe.core.upstream.incoming_link import IncomingLink
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.upstream.upstreams import Identity, Upstreams
from zpipe.core.work.delivery import Producer


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


@dataclass
class StageReport:
    """Reports on the stage with these parts. `at`: since when the next report measures; at first, when the stage was made."""

    me: Identity
    lifecycle: Lifecycle
    counts: Counts
    inlet: Inlet
    downstream: Downstream
    processing: Processing
    source: SourcePositions | None
    upstreams: Upstreams
    at: float
    _received: int = 0
    _done: int = 0
    _rate_out: float = 0.0
    _measured: dict[str, Any] = field(default_factory=dict)

    def status(self, leaving: bool, draining: bool) -> StageStatus:
        counts, downstream, processing, source = self.counts, self.downstream, self.processing, self.source
        return StageStatus(
            state=self.lifecycle.state,
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
            rate_out=self._rate_out,
            dead_stored=processing.breaker.stored_messages,
            leaving=leaving,
            draining=draining,
            waiting_for=self.upstreams.waiting_for(),
        )

    def take(self, now: float, least_s: float) -> dict[str, Any]:
        """A snapshot as PROTOCOL.md describes it. What is measured is of the time since the report before.

        least_s  one that comes sooner (somebody asked, or the state has changed) gives what the one before has measured: over
                 so short a time nothing can be said, and the next would lack what this one took
        """
        me, inlet, processing, source = self.me, self.inlet, self.processing, self.source
        if now - self.at >= least_s or not self._measured:
            self._measured = self._measure(now)
        return {
            "pipeline": me.pipeline,
            "stage": me.stage,
            "instance": me.instance,
            "incarnation": me.incarnation,
            "state": self.lifecycle.state.value,
            "abandoned": self.lifecycle.abandoned,
            **{name: getattr(self.counts, name) for name in COUNTS + OTHERS},
            "queued_bytes": inlet.queued_bytes,
            "held": inlet.held_messages,
            "held_bytes": inlet.held_bytes,
            "oldest_s": max(0.0, now - inlet.oldest_at),
            "inputs": [
                {"from": stage, "outlet": outlet, "dead": dead} for (stage, outlet), dead in inlet.dead_by_link.items()
            ],
            "sessions": _sessions(inlet),
            "links": [link.figures(now) for link in self.downstream.links],
            **self._measured,
            "latency_histogram": {
                "in_stage": processing.in_stage.so_far(),
                "since_origin": processing.since_origin.so_far(),
            }
            if source is None
            else {},
            "service_rate": inlet.rate,
            "paused": processing.paused,
            "limit": processing.limiter.report(now),
            "stopped_by": processing.breaker.stopped_by,
            "dead_stored": processing.breaker.stored_messages,
            "dead_stored_bytes": processing.breaker.stored_bytes,
            "replaying": len(processing.replays),
            "retrying": processing.retries.messages,
            "finished": source.finished if source is not None else None,
            "waiting_for": [] if self.lifecycle.state is State.STOPPED else self.upstreams.waiting_for(),
        }

    def _measure(self, now: float) -> dict[str, Any]:
        counts, processing, seconds = self.counts, self.processing, max(now - self.at, 1e-9)
        done = counts.done
        rate_in, self._rate_out = (counts.received - self._received) / seconds, (done - self._done) / seconds
        self.at, self._received, self._done = now, counts.received, done
        processing.spend(now)
        return {
            "rate_in": rate_in,
            "rate_out": self._rate_out,
            "budget": processing.budget.take(),
            "latency": {"in_stage": processing.in_stage.take(), "since_origin": processing.since_origin.take()},
        }


def _sessions(inlet: Inlet) -> list[dict[str, Any]]:
    """The links into a stage, as it sees them: a row for each producer in session, to be laid beside that one's row of
    `consumers`. sent - received is on the way; unacked is what it holds in parcels that are not finished."""
    queued: Counter[Producer] = Counter()
    for piece in inlet.queue:
        if piece.delivery.producer is not None:
            queued[piece.delivery.producer] += piece.count
    return [
        {
            "from": session.producer.stage,
            "outlet": session.producer.outlet,
            "instance": session.producer.instance,
            "incarnation": session.producer.incarnation,
            "received": session.messages.received,
            "queued": queued[session.producer],
            "unacked": session.unacked,
        }
        for session in inlet.sessions
    ] + [
        {"from": link.stage, "outlet": link.outlet, "queued": queued[_producer(link, row)], **row}
        for link in inlet.links
        for row in link.figures()
    ]


def _producer(link: IncomingLink, row: dict[str, Any]) -> Producer:
    return Producer(link.stage, link.outlet, row["instance"], row["incarnation"])
