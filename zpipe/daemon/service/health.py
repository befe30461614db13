"""What an instance needs of the machine, and waits for when it is missing: room on disks, file descriptors, services.

The small files that it leaves behind belong here, the look at its descriptors and its lock, and what holds it. Must not live
here: messages.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from zpipe.core.intervals import following
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.work.task import Result, Task, Verdict
from zpipe.daemon.outages import Outage, RepeatedWrite
from zpipe.errors import OperatorError
from zpipe.runtime import file_descriptors
from zpipe.runtime.locks import InstanceLock
from zpipe.runtime.places import Places

LOOK_S = 1.0
"""Between two looks while nothing else happens. When the loop turns anyway, it looks as often as `file_descriptors.LOOK_S`."""
PATIENCE_S = 1.0
"""A service that says "slow down" now and then is the limiter's matter. One that lets nothing through for this long is logged."""


class Health:
    """Used by the loop's thread.

    outages  those of other parts, which are shown with its own
    fail     ends the instance, with an event for the log and its reason
    """

    def __init__(
        self,
        places: Places,
        lock: InstanceLock,
        me: Identity,
        log: logging.Logger,
        outages: list[Outage],
        fail: Callable[[str, BaseException], None],
    ) -> None:
        self._places = places
        self._lock = lock
        self._me = me
        self._fail = fail
        state = f"cannot write in {places.state(me.stage, me.instance)}"
        mark = Outage(log, "stop_mark.unwritten", "stop_mark.written", state)
        pause = Outage(log, "pause.unwritten", "pause.written", state)
        self._plugin = Outage(log, "plugin.waits", "plugin.resumed", "the plugin", PATIENCE_S)
        self._outages = [*outages, mark, pause, self._plugin]
        self._stop_mark = RepeatedWrite(mark)
        self._paused_mark = RepeatedWrite(pause)
        self._look_at = 0.0
        self._null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def held_by(self) -> str:
        """What outside the pipeline this instance waits for, in words; "" if for nothing."""
        return next((outage.text for outage in self._outages if outage.text), "")

    def mark_stopped(self, ended: bool, snapshot: dict[str, Any]) -> None:
        """Writes for others that the instance has stopped. Until that is written `may_exit` is false."""
        self._stop_mark.run(lambda: self._places.mark(self._me.stage, self._me.instance, ended, snapshot))

    def may_exit(self) -> bool:
        return not self._stop_mark.pending

    def keep_paused(self, paused: bool) -> None:
        """Writes for the next life whether the operator has paused the instance."""
        self._paused_mark.run(lambda: self._places.keep_paused(self._me.stage, self._me.instance, paused))

    def fails(self, task: Task, result: Result) -> bool:
        """Whether a task's result ends the stage. A plugin that throttles every message is shown as what holds the stage."""
        failures = result.failures
        final = next((failure for failure in failures if failure.verdict is Verdict.FAIL), None) if failures else None
        if final is not None:
            self._fail("plugin.failed", OperatorError(final.reason))
        elif task.hook:
            pass  # it has no message that could have gone through
        elif len(failures) < task.count:
            self._plugin.worked()
        elif failures[0].verdict is Verdict.THROTTLED:
            self._plugin.failed(failures[0].reason)
        return final is not None

    def turn(self, now: float) -> float:
        """Tries again what could not be written, and looks at the descriptors and the lock. Returns when to call again."""
        if now >= self._look_at:
            self._look_at = now + file_descriptors.LOOK_S
            if self._null_fd >= 0 and (problem := file_descriptors.exhausted(self._null_fd)):
                self.close()
                self._fail("descriptors.exhausted", OperatorError(problem))
            try:
                self._lock.keep()
            except OperatorError as error:
                self._fail("lock.lost", error)
        return min(following(now, LOOK_S), self._stop_mark.turn(now), self._paused_mark.turn(now))

    def close(self) -> None:
        if self._null_fd >= 0:
            os.close(self._null_fd)
            self._null_fd = -1
