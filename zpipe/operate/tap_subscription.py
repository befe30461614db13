"""Taps a pipeline: asks its instances to show the messages that pass. Does not belong here: decoding, choosing and printing
them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import count

from zpipe.config import InstanceKey, PipelineConfig
from zpipe.config.targets import read_link, read_stage_target
from zpipe.core.lifecycle import State
from zpipe.core.wire import frames
from zpipe.errors import OperatorError, PeerError
from zpipe.operate.watch import read_answer
from zpipe.runtime.places import Places, since_boot_s
from zpipe.transport import keyring

HEARTBEAT_S = 1.0
"""A request is valid for three of these (PROTOCOL.md 5.11)."""
FIND_S = 0.1
"""How often an instance is asked until it answers. Messages that pass before that are not seen."""


class TapSubscription:
    """Used by one thread. `heard` has the instances that have answered.

    targets   stages, each with the instance that is wanted, or None for all of its instances
    sections  how many sections a second each instance is asked to show of each link
    """

    def __init__(
        self, config: PipelineConfig, env: Mapping[str, str], targets: Sequence[tuple[str, int | None]], sections: int
    ) -> None:
        self._places = Places(config, env, since=since_boot_s())
        self.heard: set[InstanceKey] = set()
        self._targets = targets
        self._pipeline = config.name
        self._sections = sections
        self._sockets = keyring.operator_sockets(
            config, self._places.private_key(), self._places.host, frames.TAP_TOPIC, frames.ANNOUNCEMENT_TOPIC
        )
        self._numbers = count(1)
        self._ask_at: dict[InstanceKey, float] = {}
        self._stopped: set[InstanceKey] = set()

    @property
    def over(self) -> bool:
        """Whether every instance that was heard of has stopped."""
        return bool(self.heard) and self.heard <= self._stopped

    def missing(self) -> OperatorError:
        """The error to raise if nobody answers: it says who was asked, and in which folder they were looked for."""
        names = ", ".join(stage if instance is None else f"{stage}.{instance}" for stage, instance in self._targets)
        return self._places.no_peer_error(f"{names} of pipeline {self._pipeline!r} does not answer: is it running?")

    def poll(self, timeout_s: float) -> list[frames.Tap]:
        """Asks the instances that are due, waits at most so long, and returns what was shown, oldest first.

        Raises OperatorError if an instance refuses.
        """
        now = time.monotonic()
        for stage, instance in self._targets:
            for number in [instance] if instance is not None else sorted(self._places.instances(stage)):
                self._ask((stage, number), now)
        shown = []
        for multipart in self._sockets.read(min(timeout_s, FIND_S)):
            try:
                frame = frames.read(multipart[1]) if len(multipart) == 2 else None
            except PeerError:
                continue  # a tap survives what it reads
            if isinstance(frame, frames.Tap) and frame.pipeline == self._pipeline:
                shown.append(frame)
            elif isinstance(frame, frames.Announcement):
                self._announced((frame.stage, frame.instance), frame.state)
        return shown

    def _announced(self, instance: InstanceKey, state: str) -> None:
        if state == State.STOPPED.value:
            self._stopped.add(instance)
        else:
            self._stopped.discard(instance)

    def _ask(self, instance: InstanceKey, now: float) -> None:
        if now < self._ask_at.get(instance, 0.0):
            return
        addresses = self._places.addresses(*instance)
        host = self._places.other_host(*instance)
        self._sockets.connect(addresses.control, host)
        request = frames.Request(next(self._numbers), f"tap:{self._sections}")
        encoded = self._sockets.post(addresses.feedback, frames.write(request), host)
        if encoded is not None:
            answer = read_answer(encoded, instance)
            if isinstance(answer, frames.Refuse):
                raise OperatorError(f"{instance[0]}.{instance[1]} refuses to be tapped: {answer.reason}")
            self.heard.add(instance)
        elif self._places.stopped(*instance) is not None:
            self._stopped.add(instance)
        self._ask_at[instance] = now + (HEARTBEAT_S if instance in self.heard else FIND_S)

    def close(self) -> None:
        self._sockets.close()


def read_tap_target(
    config: PipelineConfig, target: str
) -> tuple[list[tuple[str, int | None]], tuple[str, str, str] | None]:
    """Whom to ask for STAGE, STAGE.N or FROM[.OUTLET]->TO, and the one link whose messages are wanted, if it is a link.

    The consumer of a link is asked, since it sees every delivery. Raises TargetError that says what the pipeline has.
    """
    if "->" not in target:
        return [read_stage_target(config, target)], None
    upstream, consumer = read_link(config, target)
    return [(consumer, None)], (upstream.stage, upstream.outlet, consumer)
