"""Watching a pipeline from outside: the last snapshot and announcement of each instance, and requests to it.

May live here: finding the instances of a config and reading what they publish. What it means is the monitor's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from typing import Any

from zpipe.config import PipelineConfig
from zpipe.core.telemetry.snapshot import taken_in
from zpipe.core.wire import frames
from zpipe.errors import OperatorError, PeerError
from zpipe.runtime.places import Places
from zpipe.transport.listener import Listener

ASK_S = 3.0
FIND_S = 0.25
FIND_AGAIN_S = 2.0
"""Once every instance of the config was heard of, others are looked for this often."""
EAGER_S = 0.1
"""A subscription takes some milliseconds to arrive; what is published before is not heard."""
EAGER_TIMES = 10
EAGER_ASK_S = 0.05
"""An instance that lives answers within some milliseconds; for one that is stopped nobody waits."""


class Watch:
    """Used by one thread. `snapshots` is by (stage, instance); an instance that is gone keeps its last one.

    run    hears only the instances that belong to that run; "": all there are
    eager  whoever was not heard of yet is asked for a snapshot at once, so that nobody waits for the interval
    """

    def __init__(self, config: PipelineConfig, env: Mapping[str, str], eager: bool = False, run: str = "") -> None:
        self.config = config
        self._run = run
        self.places = Places(config, env)
        self.snapshots: dict[tuple[str, int], dict[str, Any]] = {}
        self._listener = Listener(frames.SNAPSHOT_TOPIC)
        self._numbers = count(1)
        self._find_at = 0.0
        self._eager_left = EAGER_TIMES if eager else 0
        self._eager_at = time.monotonic() + EAGER_S / 2
        self._expected = {(stage.name, n) for stage in config.stages.values() for n in range(1, stage.instances + 1)}

    def poll(self, timeout_s: float) -> list[dict[str, Any]]:
        """Waits at most so long for something, then gives the snapshots that came, oldest first."""
        self._find()
        self._hurry()
        came = []
        for multipart in self._listener.read(timeout_s):
            snapshot = self._read(multipart)
            if snapshot is not None:
                self.snapshots[snapshot["stage"], snapshot["instance"]] = snapshot
                came.append(snapshot)
        return came

    def _find(self) -> None:
        """Connects to instances that are new, looking for them now and then: a look costs 0.1 ms a stage."""
        now = time.monotonic()
        if now < self._find_at:
            return
        self._find_at = now + (FIND_AGAIN_S if self._expected <= self.snapshots.keys() else FIND_S)
        for stage in self.config.stages:
            for instance in self.places.instances(stage):
                self._listener.connect(self.places.addresses(stage, instance).control)

    def _hurry(self) -> None:
        now = time.monotonic()
        if not self._eager_left or now < self._eager_at:
            return
        self._eager_at = now + EAGER_S
        self._eager_left -= 1
        unheard = [key for key in self._expected if key not in self.snapshots]
        for stage, instance in unheard:
            if not self.places.local(stage) or self.places.alive(stage, instance):
                with suppress(OperatorError):
                    self.ask(stage, instance, "snapshot", EAGER_ASK_S)
        if not unheard:
            self._eager_left = 0

    def _read(self, multipart: list[bytes]) -> dict[str, Any] | None:
        """A snapshot that is wanted, or None for anything else: whoever looks on must not fall over what it sees."""
        try:
            frame = frames.read(multipart[1]) if len(multipart) == 2 else None
        except PeerError:
            return None
        if not isinstance(frame, frames.Snapshot):
            return None
        snapshot = taken_in(frame.body)
        if snapshot is None or snapshot["pipeline"] != self.config.name or snapshot["stage"] not in self.config.stages:
            return None
        return snapshot if not self._run or snapshot.get("run") == self._run else None

    def ask(self, stage: str, instance: int, what: str, timeout_s: float = ASK_S) -> str:
        """A request to an instance; the state it is in. Raises NoPeerError if it does not answer, OperatorError if it
        refuses. Blocks."""
        address = self.places.addresses(stage, instance).feedback
        request = frames.Request(next(self._numbers), what)
        encoded = self._listener.ask(address, frames.write(request), timeout_s)
        if encoded is None:
            raise self.places.no_peer_error(f"{stage}.{instance} does not answer at {address}: is it running?")
        answer = frames.read(encoded)
        if isinstance(answer, frames.Refuse):
            raise OperatorError(f"{stage}.{instance} refuses to {what}: {answer.reason}")
        return answer.state if isinstance(answer, frames.Done) else ""

    def close(self) -> None:
        self._listener.close()
