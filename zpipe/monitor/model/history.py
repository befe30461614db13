"""How the figures of a pipeline went in the last minutes, for sparklines and plots. Pure.

Must not live here: how a figure is drawn, and events (`events`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

KEPT_S = 900.0
"""Fifteen minutes: what the plot of a link shows."""
MOST_POINTS = 1800
Link = tuple[str, str, str]
"""(from, outlet, to)"""


class Depth(NamedTuple):
    """What waited on a link at one moment: at its sender or under way, and at its receiver."""

    at: float
    sender: int
    receiver: int


def link_key(link: dict[str, Any]) -> Link:
    return link["from"], link["outlet"], link["to"]


class History:
    """Takes the model's values in the order of their time. A value that is earlier than the last one starts it anew."""

    def __init__(self) -> None:
        self._rates: dict[str, deque[float]] = {}
        self._depths: dict[Link, deque[Depth]] = {}
        self._totals: dict[str, deque[float]] = {}
        self._at = 0.0

    def add(self, value: dict[str, Any]) -> None:
        if value["at"] < self._at:
            self._rates.clear()
            self._depths.clear()
            self._totals.clear()
        self._at = at = value["at"]
        for name, stage in value["stages"].items():
            self._rates.setdefault(name, deque(maxlen=MOST_POINTS)).append(stage["rate_out"] or 0.0)
        for link in value["links"]:
            kept = self._depths.setdefault(link_key(link), deque(maxlen=MOST_POINTS))
            kept.append(Depth(at, link["unsent"] + link["under_way"], link["queued"]))
            while kept[0].at < at - KEPT_S:
                kept.popleft()
        for name, figure in totals(value).items():
            self._totals.setdefault(name, deque(maxlen=MOST_POINTS)).append(figure or 0.0)

    def rates(self, stage: str) -> Sequence[float]:
        """Messages that the stage finished in a second, oldest first."""
        return list(self._rates.get(stage, ()))

    def depths(self, link: Link) -> Sequence[Depth]:
        return list(self._depths.get(link, ()))

    def totals(self, name: str) -> Sequence[float]:
        """What the function `totals` has under this name, oldest first."""
        return list(self._totals.get(name, ()))


def sinks(value: dict[str, Any]) -> list[str]:
    """The stages that no other one reads."""
    read = {link["from"] for link in value["links"]}
    return [name for name in value["stages"] if name not in read]


def totals(value: dict[str, Any]) -> dict[str, float | None]:
    """Figures of the whole pipeline. `in` is what its sources give, `sinks` what its sinks are done with, `dead` what is stored,
    p50 and p99 the age of what the slowest sink is done with. None: not known."""
    stages, links = value["stages"], value["links"]
    fed = {link["to"] for link in links}
    heads, ends = [name for name in stages if name not in fed], sinks(value)
    ages = [stages[name]["latency"].get("since_origin") or {} for name in ends]
    return {
        "in": _sum([stages[name]["rate_out"] for name in heads]),
        "sinks": _sum([stages[name]["rate_in"] for name in ends]),
        "dead": _sum([stages[name]["dead_stored"] for name in stages if stages[name]["instances"]]),
        "p50": max((age.get("p50_s", 0.0) for age in ages), default=0.0) or None,
        "p99": max((age.get("p99_s", 0.0) for age in ages), default=0.0) or None,
        "waiting": float(sum(link["depth"] for link in links)),
    }


def _sum(figures: Sequence[float | None]) -> float | None:
    known = [one for one in figures if one is not None]
    return sum(known) if len(known) == len(figures) else None
