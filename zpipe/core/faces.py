"""What a part of the shell asks a stage about one matter: its dead letters, or its neighbours. Must not live here: what changes
the stage, which events alone do."""

from __future__ import annotations

from zpipe.core.downstream.outlet_sessions import OutletSessions
from zpipe.core.lifecycle import Lifecycle, State
from zpipe.core.processing.processing import Processing
from zpipe.core.shutdown import Shutdown
from zpipe.core.upstream.upstreams import Upstreams


class Letters:
    """`replayable`: dead letters of this stage can be worked on again. Records that a head could not read cannot."""

    def __init__(self, lifecycle: Lifecycle, shutdown: Shutdown, processing: Processing, replayable: bool) -> None:
        self.replayable = replayable
        self._lifecycle = lifecycle
        self._shutdown = shutdown
        self._processing = processing

    @property
    def stored(self) -> int:
        """Dead letters that are stored, by the last count of the store."""
        return self._processing.breaker.stored_messages

    @property
    def stopped_by(self) -> str:
        """Why no more work is taken, and what to do about it; "" while it is."""
        return self._processing.breaker.stopped_by

    @property
    def in_hand(self) -> frozenset[int]:
        """Numbers of the dead letters that were taken for replay and are not gone from the store."""
        return frozenset(self._processing.replays)

    @property
    def room(self) -> tuple[int, int]:
        """How many more dead letters may be taken for replay now, and bytes of them."""
        return self._processing.replays.room

    @property
    def wanted(self) -> bool:
        """Dead letters may be replayed now: the instance works, and is not on its way to its end."""
        processing = self._processing
        running = self.replayable and self._lifecycle.state is State.RUNNING
        return running and not (self._shutdown.leaving or processing.paused or processing.replays.full)


class Peers:
    def __init__(self, sessions: OutletSessions, upstreams: Upstreams) -> None:
        self._sessions = sessions
        self._upstreams = upstreams

    def consumer_at(self, route: bytes) -> str:
        """The instance that is in session by that route of the feedback socket; "" if none is."""
        return self._sessions.consumer_at(route)

    def waiting_for(self) -> list[str]:
        """Upstream stages and instances whose end or stop is still to come."""
        return self._upstreams.waiting_for()
