"""A guard against a regression of 30 % or more in what a message costs the core: counts, which noise does not move."""

from __future__ import annotations

import json

import pytest
from message_cost import BASELINE, LOADS, MAY_GROW_TO, measure, problems

from zpipe.core.stage import Stage

FULL = LOADS["full load"]


@pytest.mark.parametrize("load", LOADS)
def test_a_message_costs_little_more_than_its_baseline(load: str) -> None:
    baseline = json.loads(BASELINE.read_text())[load]
    assert not problems(measure(LOADS[load]), baseline)


def test_the_counts_are_the_same_each_time() -> None:
    first, second = measure(FULL), measure(FULL)
    assert first["turns"] == second["turns"]
    assert first["calls"] == second["calls"]


def test_the_bound_is_exact() -> None:
    baseline = {"turns": 10.0, "calls": 100.0}
    assert not problems({"turns": 10 * MAY_GROW_TO, "calls": 100 * MAY_GROW_TO}, baseline)
    (problem,) = problems({"turns": 10 * MAY_GROW_TO, "calls": 100 * MAY_GROW_TO + 0.1}, baseline)
    assert "calls a message: 130.1, the baseline is 100" in problem
    assert "tests/core/message_cost.py" in problem


def test_a_turn_that_does_more_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it reads its next deadline again and again, and keeps what it read."""
    next_at = Stage.next_at

    def wasteful(stage: Stage) -> float:
        deadlines = [*map(next_at, [stage] * 300), *[0.0] * 4000]
        return deadlines[0]

    monkeypatch.setattr(Stage, "next_at", wasteful)
    found = problems(measure(FULL), json.loads(BASELINE.read_text())["full load"])
    assert [problem.split(" a message")[0] for problem in found] == ["calls", "allocated_bytes"]
