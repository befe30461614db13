"""How long calls take now, how long they usually take, and whether they are slower than usual. Must not live here: what follows
from that for the limit.
"""

from __future__ import annotations

FIRST_ROUND_TRIP_S = 0.1
"""Taken for the round trip until a call has succeeded."""
ROUND_CALLS = 8
"""A mean of fewer calls says little, so small limits are judged by several round trips at once."""

DOUBTS = 4
HELPED = 0.9
"""If after DOUBTS decreases in a row a round still takes more than HELPED of the first slow one, they did not help. One decrease
would prove little: with other instances at the same service it shows little effect until theirs come."""


class Latency:
    """Means of whole rounds are compared, not single calls: of forty calls one is always slow.

    round_trip_s  smoothed time of one call (RFC 6298, section 2: SRTT, gain 1/8)
    usual_s       smoothed mean of rounds; 0.0 before the first

    A round is what succeeded in one round trip. Its mean is beyond the usual if it is above usual + 4 * deviation, as a
    retransmission timeout is SRTT + 4 * RTTVAR (RFC 6298, section 2.3). Two things differ, since here the calls under way
    themselves slow the service down, little by little:

    - The usual follows quickly down (gain 1/32) and slowly up (1/256). With one gain for both it would follow a limit that grows
      by one call a round trip so closely that no round is ever beyond it, and the limit would run away.
    - The deviation is the mean difference between one round and the next (gain 1/4, as RTTVAR), not that to the mean: a slow
      rise is no noise. It is taken for at least 1/16 of the usual, so that an even service is not judged by its last 1 %.
    """

    def __init__(self) -> None:
        self.round_trip_s = FIRST_ROUND_TRIP_S
        self.usual_s = 0.0
        self._measured = False
        self._deviation_s = 0.0
        self._last_s = 0.0
        self._slow_rounds = 0
        self._slow_from_s = 0.0
        self._round_from = float("-inf")
        self._sum_s = 0.0
        self._calls = 0

    def add(self, now: float, seconds: float) -> float | None:
        """A call succeeded that took so long. The mean of its round if that ended here and is beyond the usual."""
        if self._measured:
            self.round_trip_s += (seconds - self.round_trip_s) / 8
        else:
            self.round_trip_s, self._measured = seconds, True
        if now - seconds < self._round_from:
            return None  # it started before the last change, so it tells nothing of what came of that
        self._sum_s += seconds
        self._calls += 1
        if self._calls < ROUND_CALLS or now - self._round_from < self.round_trip_s:
            return None
        mean_s = self._sum_s / self._calls
        self.begin_round(now)
        return self._judge(mean_s)

    def begin_round(self, now: float) -> None:
        """Something changed: only calls that start from now on are to be judged."""
        self._round_from = now
        self._sum_s = 0.0
        self._calls = 0

    def _judge(self, mean_s: float) -> float | None:
        if not self.usual_s:
            self.usual_s, self._last_s = mean_s, mean_s
            self._deviation_s = mean_s / 2  # RFC 6298, section 2.2
            return None
        step_s, self._last_s = abs(mean_s - self._last_s), mean_s
        if mean_s > self.usual_s + 4 * max(self._deviation_s, self.usual_s / 16):
            self._slow_rounds += 1
            if self._slow_rounds <= DOUBTS or mean_s < HELPED * self._slow_from_s:
                self._slow_from_s = self._slow_from_s if self._slow_rounds > 1 else mean_s
                return mean_s
            # Fewer calls did not make it faster, so it is not our calls that make it slow: going on would end at one.
            self.usual_s = mean_s
        self._slow_rounds = 0
        self._deviation_s += (step_s - self._deviation_s) / 4
        self.usual_s += (mean_s - self.usual_s) / (32 if mean_s < self.usual_s else 256)
        return None
