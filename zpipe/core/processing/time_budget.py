"""Where the time of a stage's workers goes, and how long messages take, as sums over time. Must not live here: a clock.

The shares of a budget add up to 1: every worker-second is in exactly one of them.
"""

from __future__ import annotations

from collections import Counter
from math import frexp
from typing import Any

SHARES = ("waiting", "working", "blocked", "limited", "retrying")


class TimeBudget:
    """Seconds of workers by what they did since the last `take`."""

    def __init__(self, workers: int, now: float) -> None:
        self._workers = workers
        self._now = now
        self._spent = dict.fromkeys(SHARES, 0.0)

    def advance(self, now: float, busy: int, idle_as: str) -> None:
        """Since the last call `busy` workers worked and the others were idle for the reason `idle_as`."""
        seconds = now - self._now
        if seconds <= 0.0:
            return
        busy = min(busy, self._workers)
        self._spent["working"] += seconds * busy
        self._spent[idle_as] += seconds * (self._workers - busy)
        self._now = now

    def take(self) -> dict[str, float]:
        """The shares since the last call, adding up to 1 (all waiting if no time passed)."""
        total = sum(self._spent.values())
        shares = {k: v / total for k, v in self._spent.items()} if total else {**self._spent, "waiting": 1.0}
        self._spent = dict.fromkeys(SHARES, 0.0)
        return shares


class Histogram:
    """Seconds in buckets a sixteenth of a power of two wide, as in an HDR histogram: percentiles are at most 6.25 % above the
    truth, never below; at most 640 numbers, of which a stage uses a few dozen; 1 µs to 12 days.

    Percentiles are of the time since the last `take`, `so_far` is of all time, in buckets a power of two wide: counts that only
    grow can be added up over instances and over any time, which percentiles cannot."""

    _least, _most, _parts = 1e-6, 1e6, 16

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._before: Counter[int] = Counter()
        self._sum_s = 0.0

    def add(self, seconds: float, messages: int) -> None:
        if not self._least < seconds < self._most:
            seconds = self._most if seconds >= self._most else self._least  # of NaN, too
        self._sum_s += seconds * messages
        mantissa, exponent = frexp(seconds / self._least)  # of which the mantissa is from 0.5 up to 1
        bucket = (exponent - 2) * self._parts + int(mantissa * 2 * self._parts)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + messages

    def percentile(self, share: float) -> float:
        """The upper edge of the bucket that holds the `share` (0..1) of all; 0.0 when empty."""
        left = share * sum(self._buckets.values())
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                whole, part = divmod(bucket, self._parts)
                return self._least * (1 << whole) * (1.0 + (part + 1) / self._parts)
        return 0.0

    def take(self) -> dict[str, float]:
        """p50, p90 and p99 since the last call, in seconds."""
        values = {f"p{p}_s": self.percentile(p / 100) for p in (50, 90, 99)}
        self._before = self._wholes()
        self._buckets = {}
        return values

    def so_far(self) -> dict[str, Any]:
        """Everything that was ever added: `buckets` has [upper edge in seconds, messages below it and not below half of it] where
        there are any, from the lowest on."""
        wholes = self._wholes()
        return {
            "messages": wholes.total(),
            "sum_s": self._sum_s,
            "buckets": [[self._least * (2 << whole), wholes[whole]] for whole in sorted(wholes)],
        }

    def _wholes(self) -> Counter[int]:
        wholes = self._before.copy()
        for bucket, messages in self._buckets.items():
            wholes[bucket // self._parts] += messages
        return wholes
