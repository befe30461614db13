"""Reading a stage's `limit` table. May live here: its keys, their defaults and which go together."""

from __future__ import annotations

from typing import Any, Literal

from zpipe.config import values
from zpipe.config.mistakes import shown
from zpipe.config.table import ConfigTable
from zpipe.core.policy import LimitPolicy

MOST_CALLS = 10_000
"""Calls under way: each is a task and a coroutine, and mostly a connection."""
_AIMD: Literal["aimd", "fixed"] = "aimd"
_FIXED: Literal["aimd", "fixed"] = "fixed"
LEAST_RATE, MOST_RATE = 0.001, 1_000_000.0


def read_limit(table: ConfigTable) -> LimitPolicy:
    """A rate alone limits nothing else; any other key, or none, stands for an adaptive limit."""
    default = LimitPolicy()
    rate = table.get("rate", _read_rate, None)
    bare = rate is not None and not ({"kind", "start", "max"} & table.values.keys())
    kind = table.get("kind", _read_kind, _FIXED if bare else _AIMD)
    start = table.get("start", values.whole(most=MOST_CALLS), None)
    most = table.get("max", values.whole(most=MOST_CALLS), None)
    table.finish()
    if not table.report.spoiled(*table.path):
        _check(table, kind, start, most, rate)
    if kind == "fixed":
        return LimitPolicy(kind, default.start, most, rate)
    most = default.max if most is None else most
    assert most is not None
    # A small max alone is no mistake: the default of start gives way to it.
    return LimitPolicy(kind, min(default.start, most) if start is None else start, most, rate)


def _check(table: ConfigTable, kind: str, start: int | None, most: int | None, rate: float | None) -> None:
    if kind == "fixed":
        if start is not None:
            problem = 'is where kind = "aimd" starts; with "fixed" leave it out, as the limit is always max'
            table.report.add((*table.path, "start"), problem, given=start)
        if most is None and rate is None:
            table.report.add(table.path, 'kind "fixed" needs max, or rate, or both', given=kind)
    elif start is not None and start > (most or LimitPolicy().max or MOST_CALLS):
        table.report.add((*table.path, "start"), f"must not be above max ({most or LimitPolicy().max})", given=start)


def _read_kind(given: Any) -> Literal["aimd", "fixed"]:
    if given == "aimd":
        return "aimd"
    if given == "fixed":
        return "fixed"
    raise ValueError(f'must be "aimd" or "fixed", not {shown(given)}')


def _read_rate(given: Any) -> float:
    try:
        rate = values.number(given)
    except ValueError:
        rate = 0.0
    if not LEAST_RATE <= rate <= MOST_RATE:
        raise values.refused(f"a number of calls a second from {LEAST_RATE:g} to {MOST_RATE:,.0f}", given)
    return rate
