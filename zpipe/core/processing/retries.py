"""Messages that wait to be tried again, and how long each has to wait. Must not live here: why they failed."""

from __future__ import annotations

import heapq
from itertools import count

from zpipe.core.policy import RetryPolicy
from zpipe.core.work.delivery import Slice
from zpipe.core.work.task import CallHistory, Failure, Verdict

SPREAD = 0.25
"""A wait that was asked for is made longer by up to this share, so that those who were told the same do not come at once."""


class Retries:
    """Slices by when they are due. They are in process: the plugin has had them."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._waiting: list[tuple[float, int, list[Slice], CallHistory]] = []
        self._order = count()
        self.messages = 0

    def add(self, slices: list[Slice], history: CallHistory, due_at: float) -> None:
        self.messages += sum(piece.count for piece in slices)
        heapq.heappush(self._waiting, (due_at, next(self._order), slices, history))

    def delay_s(self, failure: Failure, history: CallHistory, jitter: float) -> float:
        """How long to wait after `failure`; `history` has it already, `jitter` is in [0, 1).

        Doubling, bounded, with full jitter: anywhere between none and the whole delay, which spreads those that failed
        together best (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). A delay that the plugin
        asked for is waited for in full.
        """
        if failure.verdict in (Verdict.DEATH, Verdict.AGAIN):
            return 0.0
        if failure.delay_s is not None:
            return failure.delay_s * (1.0 + SPREAD * jitter)
        tries = history.throttles if failure.verdict is Verdict.THROTTLED else history.attempts
        delay = min(self._policy.delay_s * 2.0 ** min(max(tries, 1) - 1, 32), self._policy.max_delay_s)
        return delay * jitter

    def exhausted(self, history: CallHistory) -> bool:
        """Nothing is left to try."""
        return history.attempts >= self._policy.attempts or history.deaths >= self._policy.deaths

    def first(self) -> Slice:
        """The first slice of what is due next. There must be some."""
        return self._waiting[0][2][0]

    def pop(self) -> tuple[list[Slice], CallHistory]:
        """The slices and the history of what is due next. There must be some."""
        _, _, slices, history = heapq.heappop(self._waiting)
        self.messages -= sum(piece.count for piece in slices)
        return slices, history

    @property
    def next_at(self) -> float:
        return self._waiting[0][0] if self._waiting else float("inf")
