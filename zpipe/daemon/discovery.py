"""Finding upstream instances: those of the config, and those that were started beside them.

Which neighbours there are belongs here, and connecting to them. Must not live here: whether one is alive, which its connection
shows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from zpipe.config import PipelineConfig
from zpipe.core import events
from zpipe.core.intervals import following
from zpipe.core.stage import Stage
from zpipe.runtime.places import Places
from zpipe.transport.sockets import Sockets

LOOK_S = 1.0
"""Between two looks that no change of the folder has caused: for marks, and where the kernel does not tell of changes."""


class Discovery:
    """Looks into the runtime folder when something was made there, and once in LOOK_S seconds. Reading one folder costs 20 µs.

    It connects to an instance once that has bound its sockets. Sooner, libzmq would try again at intervals that double up to half
    a second, and the first message of a pipeline that starts would wait for that at each stage.

    watch  watches a folder: `look_soon` is called when something is made in it, until the returned descriptor is closed; -1: the
           folder cannot be watched
    """

    def __init__(
        self, config: PipelineConfig, places: Places, stage: Stage, sockets: Sockets, watch: Callable[[Path], int]
    ) -> None:
        self._config = config
        self._places = places
        self._stage = stage
        self._sockets = sockets
        self._me = stage.me.stage
        self._upstreams = dict.fromkeys(entry.stage for entry in config.stages[self._me].inputs)
        self._look_at = 0.0
        self._watch = watch
        self._watched: dict[tuple[str, int], int] = {}
        self._connected: set[tuple[str, int]] = set()
        self._gone: set[tuple[str, int]] = set()
        self._left: set[tuple[str, int]] = set()
        # In a run every instance of the config is started, so each is expected, heard of or not: otherwise a consumer that is
        # started again near the end would stop when it finds the mark of one producer, and never hear of the other. A producer
        # that an operator had leave is not started again: its mark says so (`_look_who_left`).
        stages = self._upstreams if places.run else ()
        self._expected = {(name, n) for name in stages for n in range(1, config.stages[name].instances + 1)}
        for peer in sorted(self._expected):
            stage.handle(events.UpstreamExpected(peer), time.monotonic())

    def turn(self, now: float) -> float:
        """Looks if it is time. Returns when it will be time again."""
        if now >= self._look_at:
            asked, self._look_at = not self._look_at, following(now, LOOK_S)
            self._look(now, asked)
        return self._look_at

    def look_soon(self) -> None:
        """Something was made in the runtime folder: an instance that starts there is to have its share within a second."""
        self._look_at = 0.0

    def _look(self, now: float, asked: bool) -> None:
        self._places.join_run()
        for upstream in self._upstreams:
            for instance in self._places.instances(upstream):
                peer = (upstream, instance)
                if peer not in self._connected and not (asked and self._is_starting(peer)):
                    self._connect(peer)
                if peer not in self._gone and self._places.stopped_at_end(upstream, instance) is not None:
                    self._gone.add(peer)
                    self._stage.handle(events.UpstreamGone(peer), now)
                self._look_who_left(peer, now)
        for _, consumer in self._config.consumers(self._me):
            for instance in self._places.instances(consumer):
                if self._places.stopped_at_end(consumer, instance) is not None:
                    self._stage.handle(events.DownstreamGone(consumer), now)

    def _look_who_left(self, peer: tuple[str, int], now: float) -> None:
        """Tells the stage when an expected instance has left. It may be started again, and leave again."""
        if peer in self._gone or peer not in self._expected or not self._places.has_left(*peer):
            self._left.discard(peer)
        elif peer not in self._left:
            self._left.add(peer)
            self._stage.handle(events.UpstreamLeft(peer), now)

    def _is_starting(self, peer: tuple[str, int]) -> bool:
        """Whether the instance has not bound its sockets yet, of which `control` is the last; its folder is watched meanwhile. If
        the binding goes unseen, the next regular look connects."""
        path = self._places.addresses(*peer).control
        if not path.startswith("ipc://"):
            return False
        if peer not in self._watched and (fd := self._watch(self._places.runtime(*peer))) >= 0:
            self._watched[peer] = fd
        return not os.path.exists(path.removeprefix("ipc://"))

    def _connect(self, peer: tuple[str, int]) -> None:
        self._connected.add(peer)
        if peer in self._watched:
            os.close(self._watched.pop(peer))
        addresses = self._places.addresses(*peer)
        host = self._places.other_host(*peer)
        self._sockets.connect_upstream(peer, addresses.feedback, addresses.control, host)
