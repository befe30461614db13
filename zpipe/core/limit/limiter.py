"""The limit on a stage's calls of its plugin: counts calls, says whether one more may start, and learns from their results. Must
not live here: how the limit changes (`aimd`), and calls per second (`token_bucket`).
"""

from __future__ import annotations

from typing import Any

from zpipe.core.limit.aimd import Aimd
from zpipe.core.limit.token_bucket import TokenBucket
from zpipe.core.policy import LimitPolicy
from zpipe.core.work.task import Result, Task, Verdict

NEVER = float("inf")
UNLIMITED = LimitPolicy("fixed", max=None)


class Limiter:
    """A call is one task. Where there is a limit, that is one message, or one batch. Without a policy any number may start.

    under_way  calls that were started and have not finished
    limited    there is a policy

    Instances of a stage share a service by each having a limiter of its own: those that have more give up more, all gain
    alike, so their shares draw near each other (Chiu and Jain 1989). No state is shared.
    """

    def __init__(self, policy: LimitPolicy | None, now: float) -> None:
        self.under_way = 0
        self.limited = policy is not None
        self._policy = policy = policy or UNLIMITED
        self._full_at = float("-inf")
        self._in_service: int | None = None
        self._in_service_until = now
        self._since = now
        self._aimd = Aimd(policy.start, _most(policy), now) if policy.kind == "aimd" else None
        self._token_bucket = TokenBucket(policy.rate) if policy.rate is not None else None

    def change(self, policy: LimitPolicy | None, now: float) -> None:
        """Goes on by another policy, and keeps what was learned, within the bounds of the new one."""
        self.limited = policy is not None
        policy = policy or UNLIMITED
        if policy.kind != "aimd":
            self._aimd = self._in_service = None
        elif self._aimd is None:
            self._aimd = Aimd(self._policy.max or policy.start, _most(policy), now)
        else:
            self._aimd.bound(_most(policy), now)
        if policy.rate != self._policy.rate:
            self._token_bucket = TokenBucket(policy.rate) if policy.rate is not None else None
        self._since = now
        self._policy = policy

    @property
    def limit(self) -> int | None:
        """Calls under way at most; None where only the rate is limited."""
        return int(self._aimd.size) if self._aimd is not None else self._policy.max

    @property
    def reason(self) -> str:
        """Why `limit` changed last, for people."""
        return self._aimd.reason if self._aimd is not None else "fixed"

    @property
    def changed_at(self) -> float:
        return self._aimd.changed_at if self._aimd is not None else self._since

    def at_once(self, workers: int) -> int:
        """How many may be under way now, of as many as there are workers."""
        limit = self.limit
        return workers if limit is None else min(workers, limit)

    def may_start(self, now: float) -> bool:
        return not self.limited or self.next_at() <= now

    def next_at(self) -> float:
        """When a call may start if none finishes before: a time in the past means at once, infinity that one has to finish."""
        if self.limit is not None and self.under_way >= self.limit:
            return NEVER
        at = self._token_bucket.next_at() if self._token_bucket is not None else float("-inf")
        if self._in_service is not None and self.under_way >= self._in_service:
            at = max(at, self._in_service_until)
        return at

    def started(self, now: float) -> None:
        self.under_way += 1
        if not self.limited:
            return
        if self.limit is not None and self.under_way >= self.limit:
            self._full_at = now
        if self._token_bucket is not None:
            self._token_bucket.started(now)

    def ended(self, task: Task, result: Result, now: float) -> None:
        """Takes in what a call's result says of the service. A rejected message was answered like any other."""
        if self._aimd is None:
            self.under_way -= 1
            return
        if not result.failures:
            self.finished(now, result.seconds, False, False, None)
            return
        throttles = [failure for failure in result.failures if failure.verdict is Verdict.THROTTLED]
        asked_s = [failure.delay_s for failure in throttles if failure.delay_s is not None]
        bad = [failure for failure in result.failures if failure.verdict is not Verdict.REJECT]
        failed = len(bad) == task.count and not throttles
        self.finished(now, result.seconds, bool(throttles), failed, max(asked_s, default=None))

    def finished(
        self, now: float, seconds: float, throttled: bool, failed: bool, retry_after_s: float | None = None
    ) -> None:
        """A call ended after so many seconds. `failed`: for another reason than being throttled."""
        self.under_way -= 1
        aimd = self._aimd
        if aimd is None:
            return
        if throttled:
            aimd.throttled(now, self.under_way)
            self._hold(aimd, now, retry_after_s)
        elif failed:
            aimd.failed(now)
            if aimd.outage:
                self._hold(aimd, now, None)
        else:
            aimd.succeeded(now, seconds, used=now - self._full_at <= 2 * max(seconds, aimd.round_trip_s))

    def _hold(self, aimd: Aimd, now: float, retry_after_s: float | None) -> None:
        """The place of a call that was refused is not free: another one would be refused as well, at once, and so on. For
        one round trip no more calls than the service is at work on now (Jacobson 1988: conservation of packets).

        Only if that is none, the stage as a whole waits for as long as it was told: a service that is merely full frees
        a place with every call that ends.
        """
        wait_s = aimd.probe_s
        if retry_after_s is not None and not self.under_way:
            wait_s = max(wait_s, retry_after_s)
        self._in_service = self.under_way
        self._in_service_until = now + wait_s

    def report(self, now: float) -> dict[str, Any] | None:
        """For snapshots. `limit` is None where only the rate is limited, `rate` where only calls at once are;
        `reason` and `changed_s`: of its last change."""
        if not self.limited:
            return None
        return {
            "limit": self.limit,
            "rate": self._policy.rate,
            "under_way": self.under_way,
            "reason": self.reason,
            "changed_s": max(0.0, now - self.changed_at),
        }


def _most(policy: LimitPolicy) -> float:
    return NEVER if policy.max is None else policy.max
