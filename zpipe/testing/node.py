"""One simulated instance: a core, its plugin's threads, and time as the process sees it. Not here: what its actions do to
others."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from zpipe.core import events
from zpipe.core.actions import Action
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import Identity, SuspectedCalls
from zpipe.core.work.task import Chunk, Task
from zpipe.testing.clock import NEVER, Event, MachineClock
from zpipe.testing.simulated_plugin import Disk, SimulatedLinks, SimulatedTask, SimulatedWorkers, Spec
from zpipe.testing.simulated_source import SimulatedSource

Key = tuple[str, int]
READ_MESSAGES = 8
TURN_S = 0.0005
"""Between two turns of a loop whose source has more."""


def seeded_bytes(seed: str | int) -> Callable[[int], bytes]:
    """In the place of a generator that nobody can guess: the same bytes for the same seed."""
    return random.Random(seed).randbytes


class Answer(NamedTuple):
    """In the place of a link: what the link has to say, once it is asked."""

    says: Callable[[], Iterable[Action]]

    def heard(self, what: Any, now: float) -> Iterable[Action]:
        return self.says()


class Node:
    """`turn` is one turn of its loop; `key` is (stage, instance).

    gone  upstream instances whose mark it has seen
    """

    def __init__(
        self,
        spec: Spec,
        instance: int,
        incarnation: str,
        links: Sequence[tuple[str, str]],
        disk: Disk,
        clock: MachineClock,
        chance: random.Random,
        jitter: Callable[[], float],
        turned: Callable[[Node], None],
        store: Callable[[Node, SimulatedTask], None],
        died: Callable[[Node], None],
    ) -> None:
        self._clock = clock
        self.spec = spec
        self.key: Key = (spec.name, instance)
        self.incarnation = incarnation
        self.inbox = f"ipc:///run/zpipe/sim.{spec.name}.{instance}/inbox-{incarnation}.sock"
        me = Identity("sim", spec.name, instance, incarnation, self.inbox)
        suspects = disk.suspects
        names = seeded_bytes(incarnation)
        self.links = spec.make_links(instance, self._heard) if spec.make_links else SimulatedLinks()
        self.stage = Stage(
            *(me, spec.inputs, links, spec.policy, clock.now),
            random_bytes=names,
            jitter=jitter,
            process_figures=self._process_figures,
            suspects=suspects,
            outgoing=self.links.outgoing,
            incoming=self.links.incoming,
        )
        self.upstreams = {stage for stage, _ in spec.inputs}
        self.consumers = {stage for _, stage in links}
        self.alive = True
        self._frozen_until = 0.0
        self._waiting: deque[Event] = deque()
        self.gone: set[Key] = set()
        self.source = None
        if not spec.inputs:
            made = (spec, instance, disk.position, disk.completed)
            self.source = spec.make_source(*made) if spec.make_source else SimulatedSource(spec, *made[2:])
        make_workers = spec.make_workers or SimulatedWorkers
        self.workers = make_workers(
            spec, instance, not links, self.later, self._emitted, self._done, lambda: died(self)
        )
        self._random = chance
        self._turned = turned
        self._store = store
        self._wake_at = NEVER
        self.tell(events.Opened())

    def _process_figures(self) -> dict[str, Any]:
        if self.source is None:
            return {}
        given = self.source.given(self._clock.now)
        return {"read_messages": given, "read_s": given * self.spec.record_s}

    def _heard(self, delay_s: float, heard: Callable[[], Iterable[Action]]) -> None:
        self.later(delay_s, lambda: self.tell(events.LinkHeard(Answer(heard), None)))

    def kill(self) -> SuspectedCalls:
        """The process is gone. Returns what was in a call."""
        self.alive = False
        return self.workers.suspects()

    @property
    def now(self) -> float:
        """By the clock of its machine."""
        return self._clock.now

    def freeze(self, seconds: float) -> None:
        self._frozen_until = max(self._frozen_until, self.now + seconds)

    # ---- time

    def tell(self, event: events.Event) -> None:
        """Hands the event to the core, without a turn."""
        self.stage.handle(event, self._clock.now)

    def event(self, event: Event) -> None:
        """Something happens to the process: at once, when it wakes up, or never because it is dead."""
        if not self.alive:
            return
        if self._frozen_until > self._clock.now or self._waiting:
            self._waiting.append(event)
            if len(self._waiting) == 1:
                self._clock.at(self._frozen_until, self._thaw)
            return
        event()
        self.turn()

    def _thaw(self) -> None:
        """What came meanwhile happens now, in the order in which it came."""
        if self._frozen_until > self._clock.now:  # it was frozen once more
            self._clock.at(self._frozen_until, self._thaw)
            return
        while self._waiting and self.alive:
            self._waiting.popleft()()
            self.turn()

    def later(self, delay_s: float, event: Event) -> None:
        self._clock.later(delay_s, lambda: self.event(event))

    def turn(self) -> None:
        """Must not be called while the process is frozen or dead."""
        if self.source is not None:
            self._read(self.source)
        self._turned(self)
        if not self.alive:
            return
        at = self.stage.next_at()
        if self.source is not None:
            at = min(at, max(self.source.ready_at, self._clock.now + TURN_S))
        at = max(at, self._clock.now + 1e-6)
        if at < self._wake_at or self._wake_at <= self._clock.now:
            self._wake_at = at
            if at < NEVER:
                self._clock.at(at, lambda: self.event(lambda: self._woken(at)))

    def _woken(self, at: float) -> None:
        if self._wake_at == at:
            self._wake_at = NEVER

    # ---- the plugin

    def _read(self, source: SimulatedSource) -> None:
        if source.over:
            return
        emitted = source.read(1 + self._random.randrange(READ_MESSAGES), self._clock.now)
        if emitted.count:
            self.tell(emitted)
        if source.ends():
            self.tell(events.SourceEnded())

    def set_limit(self, limit: int) -> None:
        self.workers.set_gate(limit > 0)
        if self.source is not None:
            self.source.set_limit(limit)

    def close_source(self) -> None:
        if self.source is not None:
            self.source.close()

    def _emitted(self, task: Task, chunks: list[Chunk]) -> None:
        self.tell(events.OutputsEmitted(task, chunks))

    def _done(self, run: SimulatedTask) -> None:
        self._store(self, run)
        self.tell(events.CallFinished(run.task, run.result))
