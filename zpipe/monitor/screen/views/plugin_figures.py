"""What the plugin of a stage counts and measures (`context.metrics`), as figures for people. Pure.

Counters are summed over the instances. The sum of gauges means nothing for many of them (an age, a temperature), so
the lowest and the highest are shown. Must not live here: how plugins count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from zpipe.monitor.formatting import count, visible
from zpipe.monitor.table.columns import Line

HIGH = 0.99


def plugin_figures(instances: Sequence[dict[str, Any]], speaking: Sequence[dict[str, Any]]) -> list[Line]:
    """A metric each: its name and its figures. `speaking`: the instances that are heard of, whose gauges are of now."""
    found: list[Line] = []
    for name in _names(instances, "plugin_counters"):
        total = sum(one["plugin_counters"].get(name, 0) for one in instances if one.get("plugin_counters"))
        found.append(_figure(name, count(total)))
    for name in _names(speaking, "plugin_gauges"):
        values = [one["plugin_gauges"][name] for one in speaking if name in (one.get("plugin_gauges") or {})]
        low, high = count(min(values)), count(max(values))
        found.append(_figure(name, low if low == high else f"{low} to {high}"))
    for name in _names(instances, "plugin_histograms"):
        rows = [one["plugin_histograms"][name] for one in instances if name in (one.get("plugin_histograms") or {})]
        found.append(_figure(name, _distribution(rows)))
    return found


def plugin_words(one: dict[str, Any]) -> Iterator[str]:
    """The same of one instance, as text."""
    figures = plugin_figures([one], [one])
    if figures:
        yield "metrics of its plugin: " + ", ".join("".join(text for text, _ in line) for line in figures)


def _names(instances: Sequence[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(name for one in instances for name in one.get(key) or {}))


def _figure(name: str, text: str) -> Line:
    return [(f"{visible(name)} ", "dim"), (text, "")]


def _distribution(rows: Sequence[dict[str, Any]]) -> str:
    """How many values, their mean, and below what nearly all of them are."""
    values = sum(row["messages"] for row in rows)
    if not values:
        return "0"
    mean = sum(row["sum_s"] for row in rows) / values
    edges: dict[float, int] = {}
    for row in rows:
        for edge, number in row["buckets"]:
            edges[edge] = edges.get(edge, 0) + number
    passed = 0
    for edge in sorted(edges):
        passed += edges[edge]
        if passed >= HIGH * values:
            return f"{count(values)} values, mean {_number(mean)}, p99 up to {_number(edge)}"
    return f"{count(values)} values, mean {_number(mean)}"


def _number(value: float) -> str:
    """Also one far below 1, as seconds are."""
    return count(value) if value >= 10 or value == int(value) else f"{value:.3g}"
