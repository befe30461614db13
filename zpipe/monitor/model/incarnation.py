"""One incarnation as the monitor has seen it: its snapshots, and rates and shares of time between them. Not here: sums over
instances."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from zpipe.core.processing.time_budget import SHARES
from zpipe.monitor.model.link import LinkHistory, LinkName, link_rows

_WINDOW = 3.0
"""Rates are measured over this many intervals: over one alone, a snapshot that is a little late would show as a jump."""
LONG_WINDOW = 30.0
"""What holds a pipeline up is judged over this many intervals. A source is woken when a quarter of its bound is free, so it is
blocked all the time in some intervals and not at all in others."""
RECENT = 4.0
"""What a stage does now is judged over this many intervals: a single one shows too much chance."""
_LEAST_SHARE = 0.005
"""If a smaller share of a window was spent on work, the speed of that work cannot be told."""
_READING = ("waiting", "working", "limited", "retrying")
"""The shares of time that a head spends on its source: all but being blocked."""
_UNBLOCKED_INTERVALS = 10
CPU = ("cpu_s", "cpu_wait_s")
CLOCKS_APART_S = 1.0
"""If not one snapshot arrived sooner than this, the sender's clock differs from the monitor's, by as much as the fastest took."""
CLOCK_OFF_S = 2.0
"""From here on a clock is said to be off. With less it may be a monitor that was slow to read its first snapshots."""

LATEST_S = 253_402_300_800.0
"""The year 10000, in seconds since the epoch: a later time has no date."""


def is_possible_time(at: float) -> bool:
    """Whether an instance can have meant it as seconds since the epoch: no NaN, no infinity, nothing before 1970."""
    return 0.0 <= at < LATEST_S


class SeenIncarnation:
    """`snapshot` is the last one; it arrived at `heard_at` by the monitor's clock."""

    def __init__(self, replaced_another: bool = False) -> None:
        self.snapshot: dict[str, Any] = {}
        self.heard_at = 0.0
        self._interval_s = 0.0
        self._history: deque[tuple[float, dict[Any, float]]] = deque()
        self._spent = dict.fromkeys(SHARES, 0.0)
        self._unblocked: deque[tuple[float, float]] = deque(maxlen=_UNBLOCKED_INTERVALS)
        self._last_read_speed: float | None = None
        self._clocks_apart_s = math.inf
        self.link_history = LinkHistory(replaced_another)

    def add(self, snapshot: dict[str, Any], now: float, interval_s: float) -> None:
        before, self.snapshot = self.snapshot, snapshot
        self.heard_at = now
        self._interval_s = interval_s
        # By the sender's clock if it says: then rates do not depend on how long a snapshot was under way.
        at = float(snapshot.get("at", now))
        self._clocks_apart_s = min(self._clocks_apart_s, now - at)
        rows = link_rows(snapshot, at if abs(self._clocks_apart_s) <= CLOCKS_APART_S else at + self._clocks_apart_s)
        self.link_history.add(rows, interval_s)
        counts: dict[Any, float] = {link: row["produced"] - row["unsent"] for link, row in rows.links.items()}
        counts["received"] = snapshot["received"]
        counts["done"] = self.done
        # What a source gave is counted as done in whole parcels, which is far off over a few intervals.
        counts["read"] = counts["done"] if snapshot.get("read_messages") is None else snapshot["read_messages"]
        counts["read_s"] = snapshot.get("read_s") or 0.0
        for key in CPU:
            if key in snapshot:
                counts[key] = snapshot[key]
        since = max(0.0, at - self._history[-1][0]) if self._history else interval_s
        for share, part in (snapshot.get("budget") or {}).items():
            if share in self._spent:
                self._spent[share] += part * since
                counts[share] = self._spent[share]
        if self._history and since >= interval_s / 2 and _was_unblocked(before) and _was_unblocked(snapshot):
            self._unblocked.append((counts["read"] - self._history[-1][1]["read"], since))
        self._history.append((at, counts))
        while self._history[0][0] < at - (LONG_WINDOW + 0.5) * interval_s:
            self._history.popleft()
        # A source that was blocked for the whole window shows no speed, but it may have shown one before.
        self._last_read_speed = self._read_speed() or self._last_read_speed

    @property
    def clock_ahead_s(self) -> float:
        """By how much its clock is ahead of the monitor's; 0.0 where the two agree as well as can be told."""
        return -self._clocks_apart_s if abs(self._clocks_apart_s) > CLOCK_OFF_S else 0.0

    @property
    def published_at(self) -> float:
        """When its last snapshot was taken, by its own clock where that agrees with the monitor's."""
        return self.link_history.last.at

    @property
    def known_for(self) -> float:
        """For how many intervals of the long window it is known."""
        return (self._history[-1][0] - self._history[0][0]) / self._interval_s

    @property
    def incarnation(self) -> str:
        return str(self.snapshot["incarnation"])

    def link(self, name: LinkName) -> dict[str, Any]:
        """Its row of the last snapshot; empty if the instance does not have that link."""
        return self.link_history.last.links.get(name, {})

    def under_way(self, name: LinkName) -> int:
        """Messages sent over the link on which no work has begun, as far as this producer knows."""
        return sum(int(consumer.get("under_way", 0)) for consumer in self.link(name).get("consumers", ()))

    def _since(self, intervals: float) -> tuple[float, dict[Any, float]]:
        """What had been counted so many intervals before the last snapshot, or in the first snapshot known since then."""
        from_ = self._history[-1][0] - (intervals + 0.5) * self._interval_s
        return next(entry for entry in self._history if entry[0] >= from_)

    def _slope(self, key: Any) -> float | None:
        (first_at, first), (last_at, last) = self._since(_WINDOW), self._history[-1]
        if last_at - first_at < self._interval_s / 2:
            return None  # A change of state is published at once: the time since then is too short to measure.
        return max(0.0, (last.get(key, 0) - first.get(key, 0)) / (last_at - first_at))

    def rate(self, key: str) -> float | None:
        """Messages `received` or `done` a second. While only one snapshot is known, the rate that it states; None if it states
        none."""
        measured = self._slope(key)
        return self.snapshot.get("rate_in" if key == "received" else "rate_out") if measured is None else measured

    def link_rate(self, name: LinkName) -> float | None:
        """Messages a second sent over the link; None while only one snapshot is known."""
        return self._slope(name)

    def shares(self, intervals: float = LONG_WINDOW) -> dict[str, float]:
        """Its time budget over so many intervals; that of the snapshot while only one is known."""
        (first_at, first), (last_at, last) = self._since(intervals), self._history[-1]
        seconds = last_at - first_at
        if seconds <= 0.0:
            return {share: float((self.snapshot.get("budget") or {}).get(share, 0.0)) for share in SHARES}
        return {share: (last.get(share, 0.0) - first.get(share, 0.0)) / seconds for share in SHARES}

    def speed(self, own: tuple[str, ...]) -> float | None:
        """Messages that it finishes in a second spent on one of the shares `own`; None if unknown."""
        (first_at, first), (last_at, last) = self._history[0], self._history[-1]
        spent = sum(last.get(share, 0.0) - first.get(share, 0.0) for share in own)
        if spent > _LEAST_SHARE * (last_at - first_at) > 0.0:
            return max(0.0, last["done"] - first["done"]) / spent
        share = sum(self.shares()[one] for one in own)
        return self.snapshot.get("rate_out", 0.0) / share if share > _LEAST_SHARE else None

    def cpu(self, intervals: float = LONG_WINDOW) -> tuple[float, float] | None:
        """Seconds of CPU that it used in a second, and seconds that its threads waited for a core; None if it does not say, or if
        a worker process has ended since and has taken its figures along."""
        (first_at, first), (last_at, last) = self._since(intervals), self._history[-1]
        if last_at <= first_at or not all(key in one for key in CPU for one in (first, last)):
            return None
        used, waited = ((last[key] - first[key]) / (last_at - first_at) for key in CPU)
        return (used, waited) if used >= 0.0 and waited >= 0.0 else None

    def _read_speed(self) -> float | None:
        """Messages a second in the long window or, if it read nothing then, in its life. A source that does not say for how long
        it read is assumed to read whenever it is not blocked. That gives too high a speed if it always has its next message
        ready."""
        (_, first), (_, last) = self._history[0], self._history[-1]
        if self.snapshot.get("read_s") is None:
            return self.speed(_READING)
        read_s = last["read_s"] - first["read_s"]
        if read_s > 0.0:
            return (last["read"] - first["read"]) / read_s
        return last["read"] / last["read_s"] if last["read_s"] > 0.0 else None

    @property
    def reading_speed(self) -> float | None:
        """(a head) Messages a second that its source gives while it is allowed to; None if unknown.

        It is at most that of the last intervals in which nothing blocked the source, if there were any. A source that makes up
        for the time in which it was blocked is faster than it could be for long.
        """
        unblocked_s = sum(seconds for _, seconds in self._unblocked)
        unblocked = sum(done for done, _ in self._unblocked) / unblocked_s if unblocked_s else None
        return min((speed for speed in (self._last_read_speed, unblocked) if speed is not None), default=None)

    @property
    def done(self) -> int:
        return int(self.snapshot["completed"] + self.snapshot["filtered"] + self.snapshot["dead"])

    def outputs(self, name: LinkName) -> float:
        """How many messages leave over the link for one that it finishes."""
        return float(self.link(name).get("produced", 0) / max(self.done, 1))


def _was_unblocked(snapshot: dict[str, Any]) -> bool:
    return bool((snapshot.get("budget") or {}).get("blocked", 0.0) < _LEAST_SHARE)
