"""A virtual clock: events in the order of their time. May live here: that order, and nothing that knows what happens."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

Event = Callable[[], None]
NEVER = float("inf")


class Clock:
    """`now` moves only when `run` plays an event. Events of the same time are played as they were put in."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._events: list[tuple[float, int, Event]] = []
        self._order = count()

    def at(self, when: float, event: Event) -> None:
        heapq.heappush(self._events, (max(when, self.now), next(self._order), event))

    def later(self, delay_s: float, event: Event) -> None:
        self.at(self.now + delay_s, event)

    def advance(self, seconds: float) -> None:
        """Plays the events of so many seconds; then so much later it is."""
        end = self.now + seconds
        self.run(lambda: False, seconds)
        self.now = max(self.now, end)

    def run(self, over: Callable[[], bool], seconds: float) -> bool:
        """Plays events until `over` holds. False if `seconds` or the events run out before."""
        end = self.now + seconds
        while not over():
            if not self._events or self._events[0][0] > end:
                return False
            when, _, event = heapq.heappop(self._events)
            self.now = max(self.now, when)
            event()
        return True


class MachineClock:
    """The same time as a machine has it whose clock is ahead of the others'."""

    def __init__(self, clock: Clock, ahead_s: float) -> None:
        self._clock = clock
        self._ahead_s = ahead_s

    @property
    def now(self) -> float:
        return self._clock.now + self._ahead_s

    def at(self, when: float, event: Event) -> None:
        self._clock.at(when - self._ahead_s, event)

    def later(self, delay_s: float, event: Event) -> None:
        self._clock.later(delay_s, event)
