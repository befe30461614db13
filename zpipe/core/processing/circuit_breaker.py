"""The circuit breaker of a stage: whether it may take more work, by its share and its number of dead letters.

May live here: counting outcomes and comparing them with the limits. It knows no store, no queue and no clock.

A plugin that fails on everything (a service that is down, a wrong password) would empty the source into the dead letters:
above a share of failures the stage stops instead, until an operator has it go on. Letters that are replayed do not count:
they were dead before.
"""

from __future__ import annotations

from collections import deque

from zpipe.core.policy import DeadPolicy


class CircuitBreaker:
    """`may_take`: work may be taken from the queue (a head: from the source). `full`: the letters stored, and those being
    written, have reached a limit. `stored_messages`, `stored_bytes`: the letters in the store, as last read there."""

    def __init__(self, policy: DeadPolicy) -> None:
        self._policy = policy
        self._outcomes: deque[list[int]] = deque()
        self._good = 0
        self._dead = 0
        self.stored_messages = 0
        self.stored_bytes = 0
        self._writing = 0
        self._storm = ""
        self._judge()

    def _judge(self) -> None:
        """Decides `full` and `may_take`. Called at each change, since they are asked for far more often than they change."""
        messages = self.stored_messages + self._writing
        self.full = messages >= self._policy.messages or self.stored_bytes >= self._policy.bytes
        self.may_take = not (self._storm or self.full)

    @property
    def stopped_by(self) -> str:
        """Why the stage takes no work, and what to do about it; "" while it does."""
        if self._storm:
            return self._storm
        if self.stored_messages + self._writing >= self._policy.messages:
            return f"dead letters at their limit of {self._policy.messages}: zpipe dead replay or drop"
        if self.full:
            return f"dead letters at their limit of {self._policy.bytes} bytes: zpipe dead replay or drop"
        return ""

    def stored(self, messages: int, bytes_: int) -> None:
        """So many letters are in the store now."""
        self.stored_messages = messages
        self.stored_bytes = bytes_
        self._judge()

    def succeeded(self, count: int) -> None:
        """So many messages were completed or filtered."""
        if self._dead:
            self._add(0, count)
        elif self._good < self._policy.storm_window:  # while all are good, their order tells nothing
            self._good = min(self._good + count, self._policy.storm_window)

    def dead_letter_written(self) -> None:
        """It is written, or has left as a message."""
        self._writing -= 1
        self._judge()

    def dead_letter_made(self) -> None:
        """A message is given up. It counts from here: writing letters may take longer than making more of them."""
        self._writing += 1
        self._add(1, 1)
        policy, seen = self._policy, self._good + self._dead
        if not self._storm and seen >= policy.storm_least and self._dead > policy.storm * seen:
            self._storm = (
                f"{self._dead} of the last {seen} messages became dead letters (circuit breaker, dead.storm = {policy.storm:g}):"
                " see zpipe dead list; zpipe resume has it go on"
            )
        self._judge()

    def reset(self) -> None:
        """The operator wants it to go on: outcomes count from here."""
        self._outcomes.clear()
        self._good = self._dead = 0
        self._storm = ""
        self._judge()

    def _add(self, dead: int, count: int) -> None:
        """Runs of equal outcomes, since a task may complete a thousand messages at once."""
        if not count:
            return
        if self._good and not self._outcomes:
            self._outcomes.append([0, self._good])
        if self._outcomes and self._outcomes[-1][0] == dead:
            self._outcomes[-1][1] += count
        else:
            self._outcomes.append([dead, count])
        self._count(dead, count)
        while (excess := self._good + self._dead - self._policy.storm_window) > 0:
            oldest = self._outcomes[0]
            gone = min(excess, oldest[1])
            oldest[1] -= gone
            self._count(oldest[0], -gone)
            if not oldest[1]:
                self._outcomes.popleft()
        if not self._dead:
            self._outcomes.clear()

    def _count(self, dead: int, by: int) -> None:
        if dead:
            self._dead += by
        else:
            self._good += by
