"""The end of an instance's life: when it may drain, flush, stop and exit, and what it must say on the way.

The conditions of the lifecycle's moves belong here. Must not live here: who asks for a drain or a leave, and what is held.

Two ways lead here. *Drain*: the stream ends at the heads and the end travels down; an instance stops once everything is
acked and its upstream has stopped. *Leave*: this instance alone goes; what it has not started is handed back.
"""

from __future__ import annotations

from zpipe.core.actions import Action, CloseSource, Exit, Stop
from zpipe.core.downstream.downstream import Downstream
from zpipe.core.ledger import Counts
from zpipe.core.lifecycle import Lifecycle, Move, State
from zpipe.core.source_positions import SourcePositions
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.upstream.upstreams import Upstreams

NEVER = float("inf")


class Shutdown:
    """`draining`: the operator wants the stream to end; `leaving`: this instance is to go; `leaves_stored`: at the end of the
    stream what links have stored is left for the next run. None of them is taken back."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        source: SourcePositions | None,
        counts: Counts,
        inlet: Inlet,
        upstreams: Upstreams,
        downstream: Downstream,
        leaves_stored: bool = False,
    ) -> None:
        self.draining = False
        self.leaving = False
        self.leaves_stored = leaves_stored
        self.exited = False
        self.closing = False
        self.exit_at = NEVER
        self.abandon_at = NEVER
        self._lifecycle = lifecycle
        self._source = source
        self._counts = counts
        self._inlet = inlet
        self._upstreams = upstreams
        self._downstream = downstream

    def drain(self) -> None:
        self.draining = True

    def leave_stored(self) -> None:
        self.leaves_stored = True

    def leave(self) -> None:
        self.leaving = True

    def next_at(self, now: float) -> float:
        """When `advance` should be called although nothing happens."""
        return min(self.exit_at, self.abandon_at) if self.abandon_at > now else self.exit_at

    def advance(self, now: float, patience_s: float, owes_flush: bool = False) -> list[Action]:
        """Makes the moves that are due. `patience_s`: how long a stopped instance waits for its consumers to have seen it.
        `owes_flush`: the plugin is to be called once more."""
        actions: list[Action] = []
        lifecycle = self._lifecycle
        if lifecycle.state is State.STARTING:
            return self._end_early(now, patience_s)
        over = self.leaving or self.input_ended()
        if lifecycle.state is State.RUNNING and not (over or self.draining):
            return actions
        if lifecycle.state is State.RUNNING and (over or self.draining):
            actions += self._close_source()
            lifecycle.make(Move.DRAIN)
        if over and self.leaves_stored:
            self._downstream.leave_stored()
        ended = over and not owes_flush and self.idle()
        if lifecycle.state is State.DRAINING and ended and (self._source is None or self._source.ended):
            lifecycle.make(Move.FLUSH)
        if lifecycle.state is State.FLUSHED:
            actions += self._flushed(now, patience_s)
        if self.leaving:
            actions += self._abandon(now, patience_s)
        gone = lifecycle.state is State.STOPPED and (self.exit_at <= now or self._downstream.stop_seen)
        if (gone or lifecycle.state is State.FAILED) and not self.exited:
            self.exited = True
            actions.append(Exit(failed=not gone))
        return actions

    def _end_early(self, now: float, patience_s: float) -> list[Action]:
        """The plugin is not open yet, and may be waiting for its service: a leaving instance stops without it."""
        if self.leaving:
            self._lifecycle.make(Move.ABANDON)
            self.exit_at = now + patience_s
            return self._stop(ended=False)
        return self._close_source() if self.draining else []

    def _flushed(self, now: float, patience_s: float) -> list[Action]:
        if not self.idle():  # a redelivery came, or a consumer was lost
            self._lifecycle.make(Move.REFILL)
            return []
        actions = [] if self.leaving else self._downstream.say_end(now)
        if self._finished():
            self._lifecycle.make(Move.STOP)
            self.exit_at = now + patience_s
            actions += self._stop(ended=not self.leaving)
        return actions

    def _abandon(self, now: float, patience_s: float) -> list[Action]:
        """A leaving instance does not wait for ever for a downstream that is not there."""
        if self.abandon_at == NEVER:
            self.abandon_at = now + patience_s
        if now < self.abandon_at or not self._downstream.lacks_consumers:
            return []
        if not self._lifecycle.make(Move.ABANDON):
            return []
        self.exit_at = now + patience_s
        return self._stop(ended=False)

    def _stop(self, ended: bool) -> list[Action]:
        return [*self._downstream.stopped(ended), Stop(ended)]

    def _close_source(self) -> list[Action]:
        if self._source is None or self._source.ended or self.closing:
            return []
        self.closing = True
        return [CloseSource()]

    def input_ended(self) -> bool:
        """Nothing new comes: the source is over, or every upstream stage has said its end."""
        return self._source.ended if self._source is not None else self._upstreams.state.ended

    def idle(self) -> bool:
        """Nothing is held here that could still become an output."""
        held = self._counts.queued or self._counts.in_process or self._downstream.unsent
        return not held and (self.leaving or self._downstream.drained)

    def _finished(self) -> bool:
        """Everything this instance answers for is acked, and nothing can come to it any more."""
        source = self._source
        if self._downstream.held or self._inlet.unfinished:
            return False
        if source is not None and not (source.completed if source.exhausted else source.all_stored):
            return False
        if self.leaving:
            return self._inlet.all_confirmed
        return self._downstream.ends_acked and (source is not None or self._upstreams.state.stopped)

    def awaits_acks(self) -> bool:
        """Nothing more comes from here until something is acked: consumers should not wait for a batch to fill."""
        if self._downstream.unsent:
            return False
        if self._downstream.awaits_acks():
            return True
        if self._source is not None:
            return self._source.ended or self._source.silent
        over = self.leaving or self._lifecycle.state is not State.RUNNING
        return (self._upstreams.awaits_acks or over) and self.idle()
