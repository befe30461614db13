"""What one incarnation said of its ends of links, as of any moment of the last intervals.

May live here: keeping the rows of its last snapshots, and what stood in them between two of those. No sums over instances.

The two ends of a link speak at different moments: one that is busy is late, one whose state changes speaks at once. Thousands of
messages pass meanwhile, so figures of different moments do not add up. Both ends are therefore taken as of the moment up to which
both have spoken; between two snapshots a figure is taken to have changed evenly.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from zpipe.monitor.model.flow import LinkName

KEPT_INTERVALS = 4.0
"""An end that has not spoken for three intervals is silent, and nobody waits for it any more."""
MOST_KEPT = 64
"""However many snapshots are asked for."""
_LINK = ("unsent", "in_flight", "unsent_bytes", "in_flight_bytes")
_TO = ("sent", "in_flight")
_FROM = ("received", "queued", "unacked")

Row = dict[str, Any]
Origin = tuple[str, str, str]
"""Of a consumer's session: (upstream stage, outlet, the producer's incarnation)."""


class LinkEnds(NamedTuple):
    """The rows of one snapshot. `links`: as a producer; `sessions`: as a consumer."""

    at: float
    links: dict[LinkName, Row]
    sessions: dict[Origin, Row]


def ends_of(snapshot: dict[str, Any], at: float) -> LinkEnds:
    stage, sessions = snapshot["stage"], snapshot.get("sessions", ())
    return LinkEnds(
        at,
        {LinkName(stage, str(x.get("outlet", "")), str(x.get("to"))): x for x in snapshot["links"]},
        {(str(x.get("from")), str(x.get("outlet")), str(x.get("incarnation"))): x for x in sessions},
    )


class LinkHistory:
    """`began`: it took the place of another incarnation while the monitor looked on, so before its first snapshot there was
    nothing of it; of one that was there before the monitor, the first snapshot is the best that is known of the time before."""

    def __init__(self, began: bool) -> None:
        self._began = began
        self._kept: deque[LinkEnds] = deque(maxlen=MOST_KEPT)

    @property
    def last(self) -> LinkEnds:
        return self._kept[-1]

    def add(self, ends: LinkEnds, interval_s: float) -> None:
        while self._kept and not ends.at - KEPT_INTERVALS * interval_s <= self._kept[0].at <= ends.at:
            self._kept.popleft()
        self._kept.append(ends)

    def link(self, name: LinkName, at: float) -> Row:
        """Its row as the producer of a link, empty if it has none; with the `consumers` that are in session at that moment."""
        before, after, part = self._around(at)
        nearest = (before if part < 0.5 else after).links.get(name)
        if nearest is None:
            return {}
        if part in (0.0, 1.0):
            return nearest
        first, second = before.links.get(name, nearest), after.links.get(name, nearest)
        row = _between(first, second, part, _LINK)
        earlier, later = _by_life(first), _by_life(second)
        if "consumers" in nearest:
            row["consumers"] = [
                {"incarnation": life} | _between(earlier.get(life, one), later.get(life, one), part, _TO)
                for life, one in _by_life(nearest).items()
            ]
        return row

    def sessions(self, at: float) -> dict[Origin, Row]:
        """Its rows as a consumer, of all links into it."""
        before, after, part = self._around(at)
        nearest = (before if part < 0.5 else after).sessions
        if part in (0.0, 1.0):
            return nearest
        return {
            origin: _between(before.sessions.get(origin, row), after.sessions.get(origin, row), part, _FROM)
            for origin, row in nearest.items()
        }

    def _around(self, at: float) -> tuple[LinkEnds, LinkEnds, float]:
        """The snapshots before and after a moment, and how far it is from the one to the other, 0 to 1."""
        after = self._kept[-1]
        for before in reversed(self._kept):
            if before.at <= at:
                part = (at - before.at) / (after.at - before.at) if after.at > before.at else 1.0
                return before, after, min(part, 1.0)
            after = before
        if self._began:
            after = LinkEnds(at, {}, {})
        return after, after, 1.0


def _by_life(link: Row) -> dict[str, Row]:
    return {str(one.get("incarnation")): one for one in link.get("consumers", ())}


def _between(before: Row, after: Row, part: float, keys: tuple[str, ...]) -> Row:
    return {key: round(before.get(key, 0) + part * (after.get(key, 0) - before.get(key, 0))) for key in keys}
