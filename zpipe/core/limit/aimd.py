"""The window of an adaptive limit, which grows by addition and shrinks by multiplication, and why it changed last. Must not live
here: counting calls.
"""

from __future__ import annotations

from zpipe.core.limit.latency import Latency

DECREASE = 0.9
"""A service that answers 429 at once and serves the rest as before loses nothing by being asked for a little too much, so
the halving of TCP (RFC 5681) would only leave it idle: between 0.5 and 1 of its capacity the mean is 0.75, between 0.9 and
1 it is 0.95. CUBIC takes 0.7 (RFC 9438, section 4.6) for the same reason; here queues are shorter still."""
LATENCY_DECREASE = 0.7
"""One slow round leaves at least this share of the limit: chance alone makes some rounds slow."""
LEAST_DECREASE = 1.1
"""Calls that a decrease takes away at least. A tenth of eight is less than one: an instance that has a small service to itself
would never let another in. A little above one, since the limit has mostly grown by a part of a call after it became too high."""
OUTAGE_CALLS = 8
"""So many failures in a row, with no success, and at least a whole window of them are an outage. Fewer are bad messages."""
PROBE_ROUND_TRIPS = 2.0
"""During an outage one call is tried this often: on its return the service is known to be there within two round trips, and
six more of slow start lead to forty calls under way."""


class Aimd:
    """Congestion control as TCP's (RFC 5681), with calls for segments and throttled calls for lost ones.

    size       the limit, a float: it grows by parts of a call
    threshold  below it slow start: every success adds one call, so the window doubles in a round trip (section 3.1).
               From it on a success adds 1 / size, so a round trip adds one call
    outage     nothing succeeds; the window is 1 and `threshold` remembers what it was
    """

    def __init__(self, start: float, most: float, now: float) -> None:
        self.size = min(start, most)
        self.most = most
        self.threshold = float("inf")
        self.outage = False
        self.reason = "start"
        self.changed_at = now
        self.latency = Latency()
        self._decreased_at = float("-inf")
        self._before = self.size
        self._streak = 0
        self._throttled_at = float("-inf")

    @property
    def round_trip_s(self) -> float:
        return self.latency.round_trip_s

    @property
    def probe_s(self) -> float:
        """Time to the next call after one that came to nothing while none is under way."""
        return self.round_trip_s * (PROBE_ROUND_TRIPS if self.outage else 1.0)

    def bound(self, most: float, now: float) -> None:
        """Another `most` from now on."""
        self.most = most
        self.size = min(self.size, most)
        self._change(now, "the config changed")

    def succeeded(self, now: float, seconds: float, used: bool) -> None:
        """`used`: the window was full lately. What was not used was not tested, so it must not grow (RFC 7661)."""
        self._streak = 0
        slow_s = self.latency.add(now, seconds)
        if self.outage:
            self.outage = False
            self._change(now, "the service is back")
        if slow_s is not None:
            self._slow(now, slow_s)
        elif used and now - seconds >= self._throttled_at and self.size < self.most:
            step = 1.0 if self.size < self.threshold else 1.0 / self.size
            whole = int(self.size)
            self.size = min(self.size + step, self.most)
            if int(self.size) > whole:
                self._change(now, "growing")

    def throttled(self, now: float, in_service: int) -> None:
        """`in_service`: our calls that the service is at work on."""
        self._streak += 1
        self._throttled_at = now
        if now - self._decreased_at >= self.round_trip_s and not self.outage:
            size = min(self.size * DECREASE, self.size - LEAST_DECREASE)
            # Slow start may have gone to twice what the service takes; `in_service` is what it has taken.
            if self.size < self.threshold:
                size = min(size, float(in_service))
            self._decrease(now, size, "throttled")
        self._note_outage(now)

    def failed(self, now: float) -> None:
        """A failure is mostly the message's own; only a whole window of them says something of the service."""
        self._streak += 1
        self._note_outage(now)

    def _note_outage(self, now: float) -> None:
        """Like a retransmission timeout: back to one call, but `threshold` is set once and held however often that call
        fails (RFC 5681, section 3.1, equation 4 and below), or a long outage would have everything learned forgotten.

        Unlike there it is the whole window of before the outage, not half: the service that comes back can do as much as before.
        """
        if self.outage or self._streak < max(OUTAGE_CALLS, int(self.size)):
            return
        self.threshold = self._before if self._fresh(now) else self.size
        self.outage = True
        self.size = 1.0
        self._change(now, f"{self._streak} calls in a row came to nothing")

    def _slow(self, now: float, slow_s: float) -> None:
        usual_s = self.latency.usual_s
        # size * usual / slow is what would be served in the usual time
        share = max(LATENCY_DECREASE, DECREASE * usual_s / slow_s)
        self._decrease(now, self.size * share, f"latency {_ms(slow_s)} is beyond the usual {_ms(usual_s)}")

    def _fresh(self, now: float) -> bool:
        return now - self._decreased_at <= 3 * self.round_trip_s

    def _decrease(self, now: float, size: float, reason: str) -> None:
        if not self._fresh(now):
            self._before = self.size
        self.size = self.threshold = max(1.0, size)
        self._decreased_at = now
        self.latency.begin_round(now)
        self._change(now, reason)

    def _change(self, now: float, reason: str) -> None:
        self.reason = reason
        self.changed_at = now


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
