"""A service on a virtual clock and stages that call it, each with a Limiter of its own, as instances have."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

from zpipe.core.limit.limiter import Limiter
from zpipe.core.policy import LimitPolicy
from zpipe.testing import Clock

SERVICE_S = 0.05
REFUSAL_S = 0.001
NEVER = float("inf")


@dataclass
class Service:
    """`capacity` calls at once. Beyond: 429 at once, or if `queueing` every call takes longer, as they share it.

    seconds(chance) is the service time;  down: "" or how calls end: "throttled", "failed"
    """

    clock: Clock
    chance: random.Random
    capacity: int = 40
    queueing: bool = False
    seconds: Callable[[random.Random], float] = lambda chance: chance.uniform(0.7, 1.3) * SERVICE_S
    down: str = ""
    under_way: int = 0

    def call(self, answer: Callable[[str, float], None]) -> None:
        """`answer` gets "" or "throttled" or "failed", and the seconds it took, later."""
        if self.down or (self.under_way >= self.capacity and not self.queueing):
            how = self.down or "throttled"
            self.clock.later(REFUSAL_S, lambda: answer(how, REFUSAL_S))
            return
        self.under_way += 1
        seconds = self.seconds(self.chance) * max(1.0, self.under_way / self.capacity)

        def end() -> None:
            self.under_way -= 1
            answer(self.down and "failed", seconds)

        self.clock.later(seconds, end)


class Caller:
    """An instance with endless work. What is throttled or fails comes again after a delay; nothing is lost."""

    def __init__(self, service: Service, policy: LimitPolicy, retry_after_s: float | None = None) -> None:
        self.clock = service.clock
        self.limiter = Limiter(policy, self.clock.now)
        self.done: list[float] = []
        self.refused: list[float] = []
        self.most = 0
        self.wakes = 0
        self._service = service
        self._retry_after_s = retry_after_s
        self._retries: list[tuple[float, int]] = []
        self._attempts: dict[int, int] = {}
        self._number = 0
        self._wake_at = NEVER

    def turn(self) -> None:
        """Starts what may be started, as a stage does after every event."""
        now = self.clock.now
        while self.limiter.may_start(now):
            self._start(self._next())
        at = self.limiter.next_at()
        if at < self._wake_at:
            self._wake_at = at
            self.clock.at(at, self._wake)

    def _wake(self) -> None:
        self._wake_at = NEVER
        self.wakes += 1
        self.turn()

    def _next(self) -> int:
        if self._retries and self._retries[0][0] <= self.clock.now:
            return heapq.heappop(self._retries)[1]
        self._number += 1
        return self._number

    def _start(self, message: int) -> None:
        self.limiter.started(self.clock.now)
        limit = self.limiter.limit
        assert limit is None or self.limiter.under_way <= limit
        self.most = max(self.most, self.limiter.under_way)
        self._service.call(lambda how, seconds: self._answered(message, how, seconds))

    def _answered(self, message: int, how: str, seconds: float) -> None:
        now = self.clock.now
        told = self._retry_after_s if how == "throttled" else None
        self.limiter.finished(now, seconds, how == "throttled", how == "failed", told)
        if how:
            self.refused.append(now)
            tries = self._attempts[message] = self._attempts.get(message, 0) + 1
            delay_s = told if told is not None else min(0.1 * 2**tries, 5.0) * self._service.chance.random()
            heapq.heappush(self._retries, (now + delay_s, message))
        else:
            self.done.append(now)
        self.turn()

    def rate(self, since: float, until: float) -> float:
        """Successes a second."""
        return sum(since <= at < until for at in self.done) / (until - since)


class Scene:
    """`instances` callers of one service, started within a round trip of each other."""

    def __init__(
        self,
        instances: int,
        policy: LimitPolicy,
        seed: int = 1,
        retry_after_s: float | None = None,
        **service: object,
    ) -> None:
        self.clock = Clock(0.0)
        self.service = Service(self.clock, random.Random(seed), **service)  # type: ignore[arg-type]
        self.callers = [Caller(self.service, policy, retry_after_s) for _ in range(instances)]
        for caller in self.callers:
            self.clock.later(self.service.chance.uniform(0.0, SERVICE_S), caller.turn)

    def run(self, until: float) -> None:
        assert not self.clock.run(lambda: False, until - self.clock.now)
        self.clock.now = until

    def rates(self, since: float, until: float) -> list[float]:
        return [caller.rate(since, until) for caller in self.callers]
