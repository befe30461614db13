"""The calls of a stage's plugin, counted for the limit if the stage has one. What a task's result tells the limiter belongs here.
Must not live here: the queue, and how the limit changes.
"""

from __future__ import annotations

from typing import Any

from zpipe.core.limit.limiter import Limiter
from zpipe.core.policy import LimitPolicy
from zpipe.core.work.task import Result, Task, Verdict


class Calls:
    """Without a limit everything may start at once. With one a task is one call: one message, or one batch."""

    def __init__(self, policy: LimitPolicy | None, now: float) -> None:
        self.limiter = Limiter(policy, now) if policy is not None else None

    def may_start(self, now: float) -> bool:
        return self.limiter is None or self.limiter.may_start(now)

    def next_at(self, now: float) -> float:
        """When the next may start if none ends before; infinity if one has to."""
        return self.limiter.next_at(now) if self.limiter is not None else float("-inf")

    def at_once(self, workers: int) -> int:
        """How many may be under way now."""
        limit = self.limiter.limit if self.limiter is not None else None
        return workers if limit is None else min(workers, limit)

    def started(self, now: float) -> None:
        if self.limiter is not None:
            self.limiter.started(now)

    def ended(self, task: Task, result: Result, now: float) -> None:
        """Tells the limiter what the call says of the service. A rejected message was answered like any other."""
        if self.limiter is None:
            return
        throttles = [failure for failure in result.failures if failure.verdict is Verdict.THROTTLED]
        asked_s = [failure.delay_s for failure in throttles if failure.delay_s is not None]
        bad = [failure for failure in result.failures if failure.verdict is not Verdict.REJECT]
        failed = len(bad) == task.count and not throttles
        self.limiter.finished(now, result.seconds, bool(throttles), failed, max(asked_s, default=None))

    def set_limit(self, policy: LimitPolicy | None, under_way: int, now: float) -> None:
        """Another limit from now on, while so many calls are under way: they go on, and count."""
        if policy is None:
            self.limiter = None
        elif self.limiter is None:
            self.limiter = Limiter(policy, now)
            self.limiter.under_way = under_way
        else:
            self.limiter.change(policy, now)

    def report(self, now: float) -> dict[str, Any] | None:
        """For snapshots. `limit` is None where only the rate is limited, `rate` where only calls at once are;
        `reason` and `changed_s`: of its last change."""
        limiter = self.limiter
        if limiter is None:
            return None
        return {
            "limit": limiter.limit,
            "rate": limiter.rate,
            "under_way": limiter.under_way,
            "reason": limiter.reason,
            "changed_s": max(0.0, now - limiter.changed_at),
        }
