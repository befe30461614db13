"""What is made of measurements: medians with their spread, ratios, goals met or not.

Does not belong here: anything that measures or prints.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Metrics = Mapping[str, float]
"""What one measurement of one side gave, by the name of the metric."""
Source = tuple[str, str]
"""(side, metric)"""


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, with the least and the greatest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Goal:
    """`sign` is ">=", "<=" or "=". A goal is for the ratio to the reference, or else for zpipe's own figure."""

    sign: str
    limit: float
    of_ratio: bool

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}" + (" x" if self.of_ratio else "")

    def met(self, value: float) -> bool:
        if self.sign == "=":
            return value == self.limit
        return value >= self.limit if self.sign == ">=" else value <= self.limit


def ratio_at_least(limit: float) -> Goal:
    return Goal(">=", limit, of_ratio=True)


def ratio_at_most(limit: float) -> Goal:
    return Goal("<=", limit, of_ratio=True)


def at_least(limit: float) -> Goal:
    return Goal(">=", limit, of_ratio=False)


def at_most(limit: float) -> Goal:
    return Goal("<=", limit, of_ratio=False)


def exactly(limit: float) -> Goal:
    return Goal("=", limit, of_ratio=False)


@dataclass(frozen=True)
class Comparison:
    """One line of the table before it is measured: which metric of zpipe's is set beside which of a reference."""

    what: str
    unit: str
    ours: Source
    reference: Source | None = None
    goal: Goal | None = None


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    ratio    zpipe's figure by the reference's, taken round by round
    met      None where there is no goal, or nothing to judge it by
    missing  why a side has no figure
    """

    name: str
    what: str
    unit: str
    zpipe: Spread | None
    reference_name: str
    reference: Spread | None
    ratio: Spread | None
    goal: Goal | None
    met: bool | None
    missing: str

    def as_json(self) -> dict[str, Any]:
        def of(spread: Spread | None) -> dict[str, float] | None:
            return None if spread is None else vars(spread).copy()

        goal = None if self.goal is None else {**vars(self.goal), "text": str(self.goal)}
        spreads = {"zpipe": of(self.zpipe), "reference": of(self.reference), "ratio": of(self.ratio)}
        return {**vars(self), **spreads, "goal": goal}


class Samples:
    """What the rounds of one benchmark gave, by side. A side that is missing has a reason for it instead."""

    def __init__(self) -> None:
        self.rounds: dict[str, list[Metrics | None]] = {}
        self.missing: dict[str, str] = {}

    def add(self, side: str, metrics: Metrics | None) -> None:
        self.rounds.setdefault(side, []).append(metrics)

    def values(self, source: Source) -> list[float | None]:
        side, metric = source
        return [None if one is None else one.get(metric) for one in self.rounds.get(side, [])]

    def as_json(self) -> dict[str, Any]:
        """By side and metric, the values of all rounds. A round that gave none is left out."""
        sides: dict[str, dict[str, list[float]]] = {}
        for side, rounds in self.rounds.items():
            metrics = sides.setdefault(side, {})
            for one in rounds:
                for metric, value in (one or {}).items():
                    metrics.setdefault(metric, []).append(value)
        return {"sides": sides, "missing": dict(self.missing)}


def figure(name: str, comparison: Comparison, samples: Samples) -> Figure:
    ours = samples.values(comparison.ours)
    theirs = [] if comparison.reference is None else samples.values(comparison.reference)
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if a is not None and b]
    zpipe, reference, ratio = _spread(ours), _spread(theirs), _spread([a / b for a, b in pairs])
    sides = [source[0] for source in (comparison.ours, comparison.reference) if source is not None]
    missing = "; ".join(f"{side}: {samples.missing[side]}" for side in sides if side in samples.missing)
    met = None
    if comparison.goal is not None:
        judged = ratio if comparison.goal.of_ratio else zpipe
        met = None if judged is None else comparison.goal.met(judged.median)
    name_of_reference = "" if comparison.reference is None else comparison.reference[0]
    what, unit, goal = comparison.what, comparison.unit, comparison.goal
    return Figure(name, what, unit, zpipe, name_of_reference, reference, ratio, goal, met, missing)


def _spread(values: Sequence[float | None]) -> Spread | None:
    there = [value for value in values if value is not None]
    return Spread.of(there) if there else None
