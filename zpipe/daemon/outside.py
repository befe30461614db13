"""What an instance needs of the machine, and waits for when it is missing: room on disks, file descriptors, services.

May live here: the small files it leaves behind, the look at its descriptors and its lock, and who holds it. It knows no message.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from zpipe.core.intake import Self
from zpipe.core.work import Result, Task, Verdict
from zpipe.daemon import descriptors
from zpipe.daemon.locks import InstanceLock
from zpipe.daemon.places import Places
from zpipe.daemon.setback import Errand, Setback
from zpipe.errors import OperatorError

PATIENCE_S = 1.0
"""A service that says "slow down" now and then is the limiter's; one that lets nothing through this long is said aloud."""


class Outside:
    """Used by the loop's thread. `setbacks` are those of others; `fail` ends the instance, with an event and its reason."""

    def __init__(
        self,
        places: Places,
        lock: InstanceLock,
        me: Self,
        log: logging.Logger,
        setbacks: list[Setback],
        fail: Callable[[str, BaseException], None],
    ) -> None:
        self._places = places
        self._lock = lock
        self._me = me
        self._fail = fail
        state = f"cannot write in {places.state(me.stage, me.instance)}"
        mark = Setback(log, "mark.unwritten", "mark.written", state)
        pause = Setback(log, "pause.unwritten", "pause.written", state)
        self._plugin = Setback(log, "plugin.waits", "plugin.goes_on", "the plugin", PATIENCE_S)
        self._setbacks = [*setbacks, mark, pause, self._plugin]
        self._marking = Errand(mark)
        self._pausing = Errand(pause)
        self._look_at = 0.0
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def held_by(self) -> str:
        """What this instance waits for, in words; "" if for nothing outside the pipeline."""
        return next((setback.text for setback in self._setbacks if setback.text), "")

    def mark(self, ended: bool, snapshot: dict[str, Any]) -> None:
        """Leaves word that the instance has stopped; until that is written `may_exit` is false."""
        self._marking.run(lambda: self._places.mark(self._me.stage, self._me.instance, ended, snapshot))

    def may_exit(self) -> bool:
        return not self._marking.pending

    def remember(self, paused: bool) -> None:
        self._pausing.run(lambda: self._places.remember(self._me.stage, self._me.instance, paused))

    def fails(self, task: Task, result: Result) -> bool:
        """Whether a call of the plugin is the end of the stage. If the plugin lets nothing through, that is what holds it."""
        failures = result.failures
        final = next((failure for failure in failures if failure.verdict is Verdict.FAIL), None)
        if final is not None:
            self._fail("plugin.failed", OperatorError(final.reason))
        elif len(failures) < task.count:
            self._plugin.worked()
        elif failures[0].verdict is Verdict.THROTTLED:
            self._plugin.failed(failures[0].reason)
        return final is not None

    def turn(self, now: float) -> float:
        """Tries again what is due, and looks at the descriptors and the lock. Returns when to call again."""
        if now >= self._look_at:
            self._look_at = now + descriptors.LOOK_S
            if self._null >= 0 and (problem := descriptors.exhausted(self._null)):
                self.close()
                self._fail("descriptors.exhausted", OperatorError(problem))
            try:
                self._lock.keep()
            except OperatorError as error:
                self._fail("lock.lost", error)
        return min(self._look_at, self._marking.turn(now), self._pausing.turn(now))

    def close(self) -> None:
        if self._null >= 0:
            os.close(self._null)
            self._null = -1
