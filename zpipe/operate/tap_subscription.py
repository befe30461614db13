"""Tapping a pipeline from outside: asking instances to show what passes, again and again, and reading what they show.

May live here: whom to ask, when, and what came. Decoding, choosing and showing messages is the monitor's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import count

from zpipe.config import PipelineConfig
from zpipe.core.lifecycle import State
from zpipe.core.wire import frames
from zpipe.errors import OperatorError, PeerError, TargetError
from zpipe.operate import pipeline_drain
from zpipe.plugin import nearest_name
from zpipe.runtime.places import Places
from zpipe.transport.listener import Listener

HEARTBEAT_S = 1.0
"""A request holds for three of these (PROTOCOL.md 5.11)."""
FIND_S = 0.1
"""Until an instance has answered it is asked this often: what passes meanwhile is not seen."""
Instance = tuple[str, int]


class TapSubscription:
    """Used by one thread. `whom`: (stage, instance, or None for all of it); `sections`: how many a second of each link."""

    def __init__(
        self, config: PipelineConfig, env: Mapping[str, str], whom: Sequence[tuple[str, int | None]], sections: int
    ) -> None:
        self.places = Places(config, env)
        self.places.since = time.time()
        self.heard: set[Instance] = set()
        self._whom = whom
        self._pipeline = config.name
        self._sections = sections
        self._listener = Listener(frames.TAP_TOPIC, frames.ANNOUNCEMENT_TOPIC)
        self._numbers = count(1)
        self._ask_at: dict[Instance, float] = {}
        self._stopped: set[Instance] = set()

    @property
    def over(self) -> bool:
        """Every instance that was heard of has stopped."""
        return bool(self.heard) and self.heard <= self._stopped

    def missing(self) -> OperatorError:
        """The error that says who does not answer, and where it was looked for."""
        names = ", ".join(stage if instance is None else f"{stage}.{instance}" for stage, instance in self._whom)
        return self.places.no_peer_error(f"{names} of pipeline {self._pipeline!r} does not answer: is it running?")

    def poll(self, timeout_s: float) -> list[frames.Tap]:
        """Asks whom it is time to ask, waits at most so long, and gives what was shown, oldest first. Raises OperatorError
        if an instance refuses."""
        now = time.monotonic()
        for stage, instance in self._whom:
            for number in [instance] if instance is not None else sorted(self.places.instances(stage)):
                self._ask((stage, number), now)
        shown = []
        for multipart in self._listener.read(min(timeout_s, FIND_S)):
            try:
                frame = frames.read(multipart[1]) if len(multipart) == 2 else None
            except PeerError:
                continue  # whoever looks on must not fall over what it sees
            if isinstance(frame, frames.Tap) and frame.pipeline == self._pipeline:
                shown.append(frame)
            elif isinstance(frame, frames.Announcement):
                self._announced((frame.stage, frame.instance), frame.state)
        return shown

    def _announced(self, who: Instance, state: str) -> None:
        if state == State.STOPPED.value:
            self._stopped.add(who)
        else:
            self._stopped.discard(who)

    def _ask(self, who: Instance, now: float) -> None:
        if now < self._ask_at.get(who, 0.0):
            return
        addresses = self.places.addresses(*who)
        self._listener.connect(addresses.control)
        request = frames.Request(next(self._numbers), f"tap:{self._sections}")
        encoded = self._listener.post(addresses.feedback, frames.write(request))
        if encoded is not None:
            answer = frames.read(encoded)
            if isinstance(answer, frames.Refuse):
                raise OperatorError(f"{who[0]}.{who[1]} refuses to be tapped: {answer.reason}")
            self.heard.add(who)
        elif self.places.stopped(*who) is not None:
            self._stopped.add(who)
        self._ask_at[who] = now + (HEARTBEAT_S if who in self.heard else FIND_S)

    def close(self) -> None:
        self._listener.close()


def parse_target(
    config: PipelineConfig, target: str
) -> tuple[list[tuple[str, int | None]], tuple[str, str, str] | None]:
    """Whom to ask, and which link alone is wanted, from STAGE, STAGE.N, or FROM[.OUTLET]->TO: of a link its consumer is asked,
    which sees each delivery. Raises TargetError naming what there is."""
    upstream, arrow, consumer = (part.strip() for part in target.partition("->"))
    if not arrow:
        return [pipeline_drain.parse_target(config, target)], None
    links = {
        f"{i.stage}{'.' * bool(i.outlet)}{i.outlet}->{stage.name}": (i.stage, i.outlet, stage.name)
        for stage in config.stages.values()
        for i in stage.inputs
    }
    link = links.get(f"{upstream}->{consumer}")
    if link is None:
        near = nearest_name(f"{upstream}->{consumer}", links)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise TargetError(f"{config.path} has no link {target!r}{hint}; it has {', '.join(links) or 'none'}")
    return [(link[2], None)], link
