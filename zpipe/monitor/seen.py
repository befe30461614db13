"""One incarnation as the monitor has seen it. May live here: its last snapshots, and rates between them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

from zpipe.core.lifecycle import State
from zpipe.core.snapshot import COUNTS, OTHERS
from zpipe.monitor.flow import LinkName

_STATES = {state.value for state in State}
_LINK_COUNTS = ("produced", "acked", "in_flight", "unsent")
_OPTIONAL = ("at", "oldest_s", "queued_bytes", "rss_bytes", "rate_in", "rate_out", "finished_before", *OTHERS)
_WINDOW = 3.0
"""Rates are over this many intervals: over one, a snapshot that is a little late shows as a jump."""


def sound(snapshot: dict[str, Any]) -> bool:
    """Whether it has what PROTOCOL.md 5.9 promises, and numbers where numbers belong.

    It may come from another program, or another version, and whoever looks on must not fall over it.
    """
    links, state = snapshot.get("links"), snapshot.get("state")
    return (
        all(isinstance(snapshot.get(key), int) for key in (*COUNTS, "instance"))
        and all(isinstance(snapshot.get(key), str) for key in ("stage", "incarnation"))
        and isinstance(state, str)
        and state in _STATES
        and _numbers(snapshot, _OPTIONAL)
        and all(_is_number(snapshot.get(key) or 0) for key in ("finished", "total"))
        and _numbers(snapshot.get("budget") or {})
        and all(_numbers(row) for row in _rows(snapshot.get("latency") or {}))
        and isinstance(links, list)
        and all(_sound_link(link) for link in links)
    )


def _sound_link(link: Any) -> bool:
    return (
        isinstance(link, dict)
        and all(isinstance(link.get(key), int) for key in _LINK_COUNTS)
        and _numbers(link, ("in_flight_bytes", "unsent_bytes"))
        and isinstance(link.get("consumers", []), list)
        and all(_numbers(consumer, ("credit", "under_way")) for consumer in link.get("consumers", ()))
    )


def _rows(table: Any) -> list[Any]:
    return list(table.values()) if isinstance(table, dict) else [None]


def _numbers(row: Any, keys: Iterable[str] | None = None) -> bool:
    """Whether it is a map in which these keys (None: all) are numbers, or missing."""
    return isinstance(row, dict) and all(_is_number(row.get(key, 0)) for key in (row if keys is None else keys))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


class Seen:
    """`snapshot` is the last one, heard at `heard_at` by the monitor's clock."""

    def __init__(self) -> None:
        self.snapshot: dict[str, Any] = {}
        self.heard_at = 0.0
        self._history: deque[tuple[float, dict[Any, int]]] = deque()
        self._links: dict[LinkName, dict[str, Any]] = {}

    def add(self, snapshot: dict[str, Any], now: float, keep_s: float) -> None:
        self.snapshot = snapshot
        self.heard_at = now
        stage = snapshot["stage"]
        self._links = {LinkName(stage, str(x.get("outlet", "")), str(x.get("to"))): x for x in snapshot["links"]}
        counts: dict[Any, int] = {link: row["produced"] - row["unsent"] for link, row in self._links.items()}
        counts["received"] = snapshot["received"]
        counts["done"] = _done(snapshot)
        # By the sender's clock where it says: what the way here took does not show in rates.
        at = float(snapshot.get("at", now))
        self._history.append((at, counts))
        while self._history[0][0] < at - keep_s:
            self._history.popleft()

    def link(self, name: LinkName) -> dict[str, Any]:
        """Its row of the snapshot; empty if the instance does not have that link."""
        return self._links.get(name, {})

    def under_way(self, name: LinkName) -> int:
        """Sent over the link and not yet worked on, as far as this producer knows."""
        return sum(int(consumer.get("under_way", 0)) for consumer in self.link(name).get("consumers", ()))

    def _slope(self, key: Any, interval_s: float) -> float | None:
        last_at, last = self._history[-1]
        first_at, first = next(entry for entry in self._history if entry[0] >= last_at - (_WINDOW + 0.5) * interval_s)
        if last_at - first_at < interval_s / 2:
            return None  # a change of state, reported at once: too short a time to measure
        return max(0.0, (last.get(key, 0) - first.get(key, 0)) / (last_at - first_at))

    def rate(self, key: str, interval_s: float) -> float:
        """Messages `received` or `done` a second; by the instance's own word while only one snapshot is known."""
        measured = self._slope(key, interval_s)
        if measured is not None:
            return measured
        return float(self.snapshot.get("rate_in" if key == "received" else "rate_out", 0.0))

    def link_rate(self, name: LinkName, interval_s: float) -> float | None:
        """Messages a second sent over the link; None while only one snapshot is known."""
        return self._slope(name, interval_s)

    def outputs(self, name: LinkName) -> float:
        """How many messages leave over the link for one that is done."""
        return float(self.link(name).get("produced", 0) / max(_done(self.snapshot), 1))


def _done(snapshot: dict[str, Any]) -> int:
    return int(snapshot["completed"] + snapshot["filtered"] + snapshot["dead"])
