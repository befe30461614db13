"""Medians, ratios and goals of the benchmarks, and the table and history that show them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import history, table
from benchmarks.figures import (
    Comparison,
    Figure,
    Goal,
    Samples,
    Spread,
    at_most,
    exactly,
    figure,
    ratio_at_least,
    ratio_at_most,
)


def samples(**sides: list[dict[str, float] | None]) -> Samples:
    made = Samples()
    for side, rounds in sides.items():
        for metrics in rounds:
            made.add(side, metrics)
    return made


def rates(goal: Goal | None, **sides: list[float | None]) -> Figure:
    made = samples(**{side: [None if r is None else {"rate": r} for r in rates] for side, rates in sides.items()})
    return figure("N1", Comparison("throughput", "messages/s", ("ours", "rate"), ("theirs", "rate"), goal), made)


def test_a_figure_is_the_median_and_its_ratio_that_of_the_rounds() -> None:
    """Not the ratio of the medians: a machine that gets slower slows both sides of a round."""
    made = rates(None, ours=[100, 60, 20], theirs=[50, 20, 5])
    assert made.zpipe == Spread(60, 20, 100)
    assert made.reference == Spread(20, 5, 50)
    assert made.ratio == Spread(3, 2, 4)
    assert made.met is None


def test_a_round_that_a_side_has_failed_in_has_no_ratio() -> None:
    made = rates(None, ours=[100, None, 20], theirs=[50, 20, 10])
    assert made.ratio == Spread(2, 2, 2)
    assert made.zpipe == Spread(60, 20, 100)


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (ratio_at_least(2.2), 2.2, True),
        (ratio_at_least(2.2), 2.19, False),
        (ratio_at_most(3), 3, True),
        (ratio_at_most(3), 3.01, False),
        (exactly(1), 1, True),
        (exactly(1), 1.001, False),
    ],
)
def test_a_goal_is_met_at_its_limit(goal: Goal, value: float, met: bool) -> None:
    assert goal.met(value) is met


def test_a_goal_for_the_figure_itself_needs_no_reference() -> None:
    made = figure("N4", Comparison("memory", "MiB", ("ours", "mib"), None, at_most(29)), samples(ours=[{"mib": 29.5}]))
    assert made.met is False
    assert made.ratio is None


def test_a_side_that_is_missing_is_said_and_nothing_is_judged() -> None:
    made = Samples()
    made.add("ours", {"rate": 10.0})
    made.missing["theirs"] = "no redis-server"
    found = figure("N1", Comparison("a", "b", ("ours", "rate"), ("theirs", "rate"), ratio_at_least(8)), made)
    assert found.met is None
    assert "not measured: theirs: no redis-server" in table.as_text([found])


def test_the_table_has_a_line_for_each_figure_with_its_verdict() -> None:
    one, other = (
        rates(ratio_at_least(2), ours=[200, 220], theirs=[100, 100]),
        rates(ratio_at_most(2), ours=[3], theirs=[1]),
    )
    head, first, second = table.as_text([one, other]).splitlines()
    assert head.split() == ["what", "unit", "zpipe", "reference", "its", "figure", "ratio", "goal"]
    assert " ".join(first.split()) == "N1 throughput messages/s 210 (200-220) theirs 100 2.10 (2.00-2.20) >= 2 x met"
    assert " ".join(second.split()) == "N1 throughput messages/s 3.00 theirs 1.00 3.00 <= 2 x NOT MET"


def test_the_markdown_table_is_one_of_nine_columns() -> None:
    lines = table.as_markdown([rates(None, ours=[1], theirs=[2])]).splitlines()
    assert [line.count("|") for line in lines] == [10, 10, 10]


def run_document(**more: Any) -> dict[str, Any]:
    figures = [rates(ratio_at_least(2), ours=[200, 210, 220], theirs=[100, 100, 100]).as_json()]
    head = {
        "at": "2030-01-01T00:00:00+00:00",
        "commit": "abc",
        "machine": {},
        "versions": {},
        "quick": False,
        "rounds": 3,
    }
    return {**head, "benchmarks": {}, "figures": figures, **more}


def test_the_history_has_one_line_a_run(tmp_path: Path) -> None:
    path = tmp_path / "history.ndjson"
    history.append(path, run_document())
    history.append(path, run_document(commit="def"))
    first, second = map(json.loads, path.read_text().splitlines())
    assert (first["commit"], second["commit"]) == ("abc", "def")
    assert first["figures"] == [
        {"name": "N1", "what": "throughput", "met": True, "zpipe": 210, "reference": 100, "ratio": 2.1}
    ]
    assert "benchmarks" not in first


def test_a_figure_as_json_is_plain() -> None:
    made = rates(ratio_at_least(2), ours=[200], theirs=[100]).as_json()
    assert json.loads(json.dumps(made)) == made
    assert made["goal"] == {"sign": ">=", "limit": 2, "of_ratio": True, "text": ">= 2 x"}
