"""What a plugin counts and measures for the operator: `context.metrics`. They are shown with those of its stage.

Must not live here: how they are exported, and what zpipe itself counts. Any thread may use them.
"""

from __future__ import annotations

import math
import re
import threading
from typing import Any, TypeVar

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
MOST = 100
"""Of one plugin: every one is a time series for each instance, and travels with each snapshot."""
SMALLEST, LARGEST = -13, 32
"""Powers of two: the upper edges of the buckets of a histogram, from 122 µs to an hour where it measures seconds."""


class Counter:
    """Only grows."""

    def __init__(self, lock: threading.Lock) -> None:
        self.value = 0.0
        self._lock = lock

    def inc(self, by: float = 1) -> None:
        if by < 0:
            raise ValueError(f"a counter only grows, and was given {by}")
        with self._lock:
            self.value += by


class Gauge:
    """Has a value that goes up and down."""

    def __init__(self, lock: threading.Lock) -> None:
        self.value = 0.0
        self._lock = lock

    def set(self, value: float) -> None:
        self.value = float(value)

    def inc(self, by: float = 1) -> None:
        with self._lock:
            self.value += by


class Histogram:
    """How values are distributed, in buckets of powers of two."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._sum = 0.0
        self._buckets: dict[int, int] = {}

    def observe(self, value: float) -> None:
        power = max(SMALLEST, min(math.ceil(math.log2(value)), LARGEST + 1)) if value > 0 else SMALLEST
        with self._lock:
            self._sum += value
            self._buckets[power] = self._buckets.get(power, 0) + 1

    def figures(self) -> dict[str, Any]:
        with self._lock:
            rows = [[2.0**power, count] for power, count in sorted(self._buckets.items())]
            return {"buckets": rows, "messages": sum(self._buckets.values()), "sum_s": self._sum}


M = TypeVar("M", Counter, Gauge, Histogram)


class Metrics:
    """Each is made at its first use, and is the same one at the next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, Counter | Gauge | Histogram] = {}

    def counter(self, name: str) -> Counter:
        return self._get(name, Counter)

    def gauge(self, name: str) -> Gauge:
        return self._get(name, Gauge)

    def histogram(self, name: str) -> Histogram:
        return self._get(name, Histogram)

    def _get(self, name: str, kind: type[M]) -> M:
        found = self._made.get(name)
        if found is None:
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a metric: allowed are a-z, 0-9 and _, at most 64")
            with self._lock:
                if name not in self._made and len(self._made) >= MOST:
                    raise ValueError(f"{MOST} metrics are the most a plugin may have; put no ids or values into names")
                found = self._made.setdefault(name, kind(threading.Lock()))
        if not isinstance(found, kind):
            raise ValueError(f"{name!r} is a {type(found).__name__.lower()} already")
        return found

    def figures(self) -> dict[str, Any]:
        """For a snapshot: by kind, then by name. {} while there are none."""
        figures: dict[str, Any] = {}
        for name, one in list(self._made.items()):
            value = one.figures() if isinstance(one, Histogram) else one.value
            figures.setdefault(f"plugin_{type(one).__name__.lower()}s", {})[name] = value
        return figures
