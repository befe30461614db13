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
from zpipe.daemon.watch import Watch
from zpipe.errors import ExitCode, NoPeerError, OperatorError

TURN_S = 0.1
ASK_S = 1.0
Instance = tuple[str, int]


class Drain:
    """One drain. `last` has the last snapshot of every instance that was heard of since it began."""

    def __init__(self, config: PipelineConfig, env: Mapping[str, str]) -> None:
        self._config = config
        self._watch = Watch(config, env)
        self._watch.places.since = time.time()
        self._heads = {stage.name for stage in config.stages.values() if not stage.inputs}
        self._asked: dict[Instance, str] = {}
        self.last: dict[Instance, dict[str, Any]] = {}

    def gather(self, timeout_s: float) -> None:
        """Hears of the instances that run. Raises NoPeerError if there is none, or no head. Blocks."""
        expected = {(s.name, n) for s in self._config.stages.values() for n in range(1, s.instances + 1)}
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not expected <= set(self.last):
            self._listen(TURN_S)
        if not self.last:
            where = self._watch.places.silence()
            raise NoPeerError(f"no instance of pipeline {self._config.name!r} is running ({where})")

    def run(self, timeout_s: float, turn: Callable[[], None]) -> ExitCode:
        """Drains and waits; `turn` is called ten times a second. DONE when every instance has stopped, DRAIN_TIMEOUT when
        some have not in time. Blocks."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._order()
            self._listen(TURN_S)
            self._collect()
            turn()
            if not self.running():
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
            self.last[snapshot["stage"], snapshot["instance"]] = snapshot

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
    """Asks one instance, or all that run, of a stage. Returns the names of those that did it. Raises NoPeerError. Blocks."""
    watch = Watch(config, env)
    try:
        instances = [instance] if instance is not None else sorted(watch.places.instances(stage))
        done = []
        for number in instances:
            try:
                watch.ask(stage, number, what)
            except NoPeerError:
                if instance is not None:
                    raise
                continue
            done.append(f"{stage}.{number}")
        if not done:
            raise NoPeerError(f"no instance of stage {stage!r} of pipeline {config.name!r} is running")
        return done
    finally:
        watch.close()


def parse_target(config: PipelineConfig, target: str) -> tuple[str, int | None]:
    """STAGE or STAGE.N. Raises OperatorError naming what there is."""
    stage, dot, number = target.partition(".")
    if stage not in config.stages or (dot and not number.isdigit()):
        known = ", ".join(config.stages)
        raise OperatorError(f"{target!r} is no STAGE or STAGE.N of {config.path}: it has {known}")
    return stage, int(number) if dot else None
