"""What a plugin counts and measures for the operator: `context.metrics`. They are shown with those of its stage.

A worker process has metrics of its own. What has changed in them goes to the daemon with each result, and is added to those of
the instance there, so that they read as if all workers had shared one object each, as threads do.

Must not live here: how they are exported, and what zpipe itself counts. Any thread may use them.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
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
        self._told = 0.0

    def inc(self, by: float = 1) -> None:
        if by < 0:
            raise ValueError(f"a counter only grows, and was given {by}")
        with self._lock:
            self.value += float(by)

    def change(self) -> list[Any] | None:
        """What was added since the last time, as arguments of `add`; None if nothing was."""
        value = self.value
        added, self._told = value - self._told, value
        return [added] if added else None

    def add(self, by: float) -> None:
        self.inc(by)


class Gauge:
    """Has a value that goes up and down."""

    def __init__(self, lock: threading.Lock) -> None:
        self.value = 0.0
        self._lock = lock
        self._told = 0.0
        self._set_to: float | None = None

    def set(self, value: float) -> None:
        with self._lock:
            self.value = self._set_to = float(value)

    def inc(self, by: float = 1) -> None:
        with self._lock:
            self.value += float(by)

    def change(self) -> list[Any] | None:
        """Likewise: what it was last set to (None: it was not) and what was added since then."""
        with self._lock:
            set_to, self._set_to = self._set_to, None
            added = self.value - (self._told if set_to is None else set_to)
            self._told = self.value
        return [set_to, added] if added or set_to is not None else None

    def add(self, set_to: float | None, by: float) -> None:
        if set_to is not None:
            self.set(set_to)
        self.inc(by)


class Histogram:
    """How values are distributed, in buckets of powers of two."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._sum = self._told_sum = 0.0
        self._buckets: dict[int, int] = {}
        self._told: dict[int, int] = {}

    def observe(self, value: float) -> None:
        power = max(SMALLEST, min(math.ceil(math.log2(value)), LARGEST + 1)) if value > 0 else SMALLEST
        self.add(float(value), [[power, 1]])

    def change(self) -> list[Any] | None:
        """Likewise: the sum of the values since, and how many there were by bucket."""
        with self._lock:
            rows = [[power, n - self._told.get(power, 0)] for power, n in self._buckets.items()]
            added, self._told, self._told_sum = self._sum - self._told_sum, dict(self._buckets), self._sum
        rows = [row for row in rows if row[1]]
        return [added, rows] if rows else None

    def add(self, total: float, rows: list[list[int]]) -> None:
        with self._lock:
            self._sum += total
            for power, messages in rows:
                self._buckets[power] = self._buckets.get(power, 0) + messages

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

    def changes(self) -> list[list[Any]]:
        """Rows of [kind, name, what was added since the last time], for `add`. Of one thread's."""
        if not self._made:
            return []
        changed = [(name, one, one.change()) for name, one in list(self._made.items())]
        return [[type(one).__name__.lower(), name, change] for name, one, change in changed if change is not None]

    def add(self, kind: str, name: str, change: list[Any]) -> None:
        """Adds what has changed elsewhere. Raises ValueError where the name is one of another kind here, or one too many."""
        of_kind: dict[str, Callable[[str], Any]] = {
            "counter": self.counter,
            "gauge": self.gauge,
            "histogram": self.histogram,
        }
        of_kind[kind](name).add(*change)

    def figures(self) -> dict[str, Any]:
        """For a snapshot: by kind, then by name. {} while there are none."""
        figures: dict[str, Any] = {}
        for name, one in list(self._made.items()):
            value = one.figures() if isinstance(one, Histogram) else one.value
            figures.setdefault(f"plugin_{type(one).__name__.lower()}s", {})[name] = value
        return figures
