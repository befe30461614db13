"""`zpipe drain`: the ordered shutdown of a running pipeline, seen from outside.

May live here: ordering the heads, and knowing when every instance has stopped. What is shown and what adds up are others'.

The order goes to each head's feedback socket and is confirmed there; whatever a lost frame or a late joiner does, the state
in every snapshot shows how far the drain is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from zpipe.config import PipelineConfig
from zpipe.core.lifecycle import State
from zpipe.errors import ExitCode, NoPeerError, TargetError
from zpipe.operate.watch import Watch
from zpipe.plugin import nearest_name
from zpipe.runtime.places import since_boot_s

TURN_S = 0.1
ASK_S = 1.0
MOST_INSTANCES = 1000
Instance = tuple[str, int]


class Drain:
    """One drain. `last` has the last snapshot of every instance that was heard of since it began; `dead`: of incarnations
    that were followed by another meanwhile."""

    def __init__(self, config: PipelineConfig, env: Mapping[str, str]) -> None:
        self._config = config
        self._watch = Watch(config, env)
        self._watch.places.since = since_boot_s()
        self._heads = {stage.name for stage in config.stages.values() if not stage.inputs}
        self._asked: dict[Instance, str] = {}
        self.last: dict[Instance, dict[str, Any]] = {}
        self.dead: list[dict[str, Any]] = []

    def gather(self, timeout_s: float) -> None:
        """Hears of the instances that run. Raises NoPeerError if there is none, or no head,
        OperatorError if this user may not look for them. Blocks."""
        expected = {(s.name, n) for s in self._config.stages.values() for n in range(1, s.instances + 1)}
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not expected <= set(self.last):
            self._listen(TURN_S)
        if not self.last:
            raise self._watch.places.no_peer_error(f"no instance of pipeline {self._config.name!r} is running")
        if not self._under_way() and not any(self._alive(head) for head in self._instances() if head[0] in self._heads):
            names = ", ".join(sorted(self._heads))
            raise NoPeerError(f"a drain begins at the head, and {names} is not running: start it, or stop the others")

    def run(self, timeout_s: float, turn: Callable[[], None]) -> ExitCode:
        """Drains and waits; `turn` is called ten times a second. DONE when every instance has stopped, DRAIN_TIMEOUT when
        some have not in time. Blocks."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._order()
            self._listen(TURN_S)
            self._collect()
            turn()
            if not self.running() and not self._unheard():
                return ExitCode.DONE
            if time.monotonic() > deadline:
                return ExitCode.DRAIN_TIMEOUT

    def leave(self, stage: str, instance: int, timeout_s: float, turn: Callable[[], None]) -> ExitCode:
        """The same for one instance: it hands back what is not started, finishes the rest and exits."""
        self._watch.ask(stage, instance, "leave")
        deadline = time.monotonic() + timeout_s
        while self._stopped(stage, instance) is None:
            self._listen(TURN_S)
            if (stage, instance) in self.running():
                turn()
            if time.monotonic() > deadline:
                return ExitCode.DRAIN_TIMEOUT
        return ExitCode.DONE

    def _instances(self) -> list[Instance]:
        return [(stage, n) for stage in self._config.stages for n in sorted(self._watch.places.instances(stage))]

    def _alive(self, key: Instance) -> bool:
        return key in self.last or (self._watch.places.local(key[0]) and self._watch.places.alive(*key))

    def _unheard(self) -> list[Instance]:
        """Instances that live and have not been heard of: starting, or stopped by a signal."""
        return [key for key in self._instances() if key not in self.last and self._alive(key)]

    def _under_way(self) -> bool:
        """A drain, or the end of a source, has passed the heads already."""
        early = (State.STARTING.value, State.RUNNING.value)
        return any(key[0] in self._heads or snapshot["state"] not in early for key, snapshot in self.last.items())

    def missing(self) -> list[str]:
        """In words: instances of the config that were not heard of, for a drain that did not end."""
        silent = self._unheard()
        words = [f"{stage}.{n} runs but does not answer (stopped?)" for stage, n in silent]
        expected = [(s.name, n) for s in self._config.stages.values() for n in range(1, s.instances + 1)]
        return words + [
            f"{stage}.{n} is not running"
            for stage, n in expected
            if (stage, n) not in self.last and (stage, n) not in silent
        ]

    def running(self) -> list[Instance]:
        """Instances that have not stopped yet."""
        return [key for key, snapshot in self.last.items() if snapshot["state"] != State.STOPPED.value]

    def _order(self) -> None:
        """A head that was started again since, or whose answer was lost, is told again."""
        for key, snapshot in self.last.items():
            if key[0] not in self._heads or self._asked.get(key) == snapshot["incarnation"]:
                continue
            if snapshot["state"] in (State.STOPPED.value, State.STARTING.value):
                continue
            try:
                self._watch.ask(*key, "drain", timeout_s=ASK_S)
            except NoPeerError:
                continue
            self._asked[key] = snapshot["incarnation"]

    def _listen(self, timeout_s: float) -> None:
        for snapshot in self._watch.poll(timeout_s):
            key = snapshot["stage"], snapshot["instance"]
            before = self.last.get(key)
            if before is not None and before["incarnation"] != snapshot["incarnation"]:
                self.dead.append(before)
            self.last[key] = snapshot

    def _collect(self) -> None:
        """The last snapshot of an instance may be lost with its socket; its mark on disk is not."""
        for key in self.running():
            final = self._stopped(*key)
            if final is not None:
                self.last[key] = final

    def _stopped(self, stage: str, instance: int) -> dict[str, Any] | None:
        seen = self.last.get((stage, instance))
        if seen is not None and seen["state"] == State.STOPPED.value:
            return seen
        return self._watch.places.stopped(stage, instance)

    def close(self) -> None:
        self._watch.close()


def ask_all(config: PipelineConfig, env: Mapping[str, str], stage: str, instance: int | None, what: str) -> list[str]:
    """Asks one instance, or all that run, of a stage. Returns the names of those that did it. Blocks.

    Raises NoPeerError if none runs, or if one that runs does not answer: the others have done it then.
    """
    watch = Watch(config, env)
    try:
        instances = [instance] if instance is not None else sorted(watch.places.instances(stage))
        done, silent = [], []
        for number in instances:
            if watch.places.local(stage) and not watch.places.alive(stage, number):
                continue
            try:
                watch.ask(stage, number, what)
            except NoPeerError:
                silent.append(f"{stage}.{number}")
            else:
                done.append(f"{stage}.{number}")
        if silent and watch.places.local(stage):
            did = f"; {', '.join(done)} did it" if done else ""
            raise NoPeerError(f"{', '.join(silent)} runs but does not answer (stopped?): ask again{did}")
        if not done:
            name = stage if instance is None else f"{stage}.{instance}"
            raise watch.places.no_peer_error(f"{name} of pipeline {config.name!r} is not running")
        return done
    finally:
        watch.close()


def parse_target(config: PipelineConfig, target: str) -> tuple[str, int | None]:
    """STAGE or STAGE.N. Raises TargetError naming what there is."""
    stage, dot, number = target.partition(".")
    if stage not in config.stages:
        near = nearest_name(stage, config.stages)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise TargetError(f"{config.path} has no stage {stage!r}{hint}; it has {', '.join(config.stages)}")
    if dot and not (number.isascii() and number.isdigit() and 0 < int(number) <= MOST_INSTANCES):
        known = ", ".join(
            f"{s.name}.1" + (f" to {s.name}.{s.instances}" * (s.instances > 1)) for s in config.stages.values()
        )
        raise TargetError(f"{target!r} is no STAGE.N with N from 1 to {MOST_INSTANCES}; {config.path} has {known}")
    return stage, int(number) if dot else None
