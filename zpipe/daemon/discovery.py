"""Finding upstream instances: those of the config, and those that were started beside them.

Which neighbours there are belongs here, and connecting to them. Must not live here: whether one is alive, which its connection
shows.
"""

from __future__ import annotations

from zpipe.config import PipelineConfig
from zpipe.core.stage import Stage
from zpipe.core.telemetry.stage_report import following
from zpipe.runtime.places import Places
from zpipe.transport.sockets import Sockets

LOOK_S = 1.0
"""Between two looks that nothing has asked for: for marks, and where the kernel does not tell that the folder has changed."""


class Discovery:
    """Looks into the runtime folder when something was made there, and once in LOOK_S seconds. Reading one folder costs 20 µs."""

    def __init__(self, config: PipelineConfig, places: Places, stage: Stage, sockets: Sockets) -> None:
        self._config = config
        self._places = places
        self._stage = stage
        self._sockets = sockets
        self._me = stage.me.stage
        self._upstreams = dict.fromkeys(entry.stage for entry in config.stages[self._me].inputs)
        self._look_at = 0.0
        self._connected: set[tuple[str, int]] = set()
        self._gone: set[tuple[str, int]] = set()
        # In a run every instance of the config is started, so one that has not been heard of yet may still have something.
        # Otherwise a consumer that is started again near the end would stop by the mark of one, and never hear of the other.
        for upstream in self._upstreams if places.run else ():
            for instance in range(1, config.stages[upstream].instances + 1):
                stage.upstream_expected((upstream, instance))

    def turn(self, now: float) -> float:
        """Looks if it is time. Returns when it will be time again."""
        if now >= self._look_at:
            self._look_at = following(now, LOOK_S)
            self._look(now)
        return self._look_at

    def look_soon(self) -> None:
        """Something was made in the runtime folder: whoever starts there is to have its share within a second."""
        self._look_at = 0.0

    def _look(self, now: float) -> None:
        self._places.join_run()
        for upstream in self._upstreams:
            for instance in self._places.instances(upstream):
                peer = (upstream, instance)
                if peer not in self._connected:
                    self._connected.add(peer)
                    addresses = self._places.addresses(upstream, instance)
                    self._sockets.connect_upstream(peer, addresses.feedback, addresses.control)
                if peer not in self._gone and self._places.stopped_at_end(upstream, instance) is not None:
                    self._gone.add(peer)
                    self._stage.upstream_gone(peer, now)
        for _, consumer in self._config.consumers(self._me):
            for instance in self._places.instances(consumer):
                if self._places.stopped_at_end(consumer, instance) is not None:
                    self._stage.downstream_gone(consumer)
