"""`python -m benchmarks`: what it prints, what it appends to the history, how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import benchmarks.cases
from benchmarks.__main__ import main
from benchmarks.benchmark import Benchmark, Effort, Side
from benchmarks.figures import Comparison, Metrics, ratio_at_least


def measure(effort: Effort) -> Metrics:
    return {"rate": 100.0 * effort.rounds}


def fail(effort: Effort) -> Metrics:
    raise RuntimeError("it died")


@pytest.fixture(autouse=True)
def two_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = Comparison("throughput", "messages/s", ("a", "rate"), ("b", "rate"), ratio_at_least(2))
    good = Benchmark("N1.good", "one that works", [Side("a", measure), Side("b", measure)], [comparison])
    bad = Benchmark("N2", "one that fails", [Side("a", measure), Side("b", fail)], [comparison])
    monkeypatch.setattr(benchmarks.cases, "ALL", (good, bad))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return main()


def test_a_goal_that_is_not_met_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    history = tmp_path / "history"
    assert run(monkeypatch, "n1", "--quick", "--history", str(history)) == 0
    assert "NOT MET" in capsys.readouterr().out
    (line,) = history.read_text().splitlines()
    assert json.loads(line)["quick"] is True


def test_the_json_has_every_round(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "N1.good", "--json", "--rounds", "2", "--no-history") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["benchmarks"]["N1.good"]["sides"]["a"] == {"rate": [200.0, 200.0]}
    assert found["figures"][0]["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert found["machine"]["cores"] > 0
    assert found["versions"]["zpipe"]


def test_a_side_that_fails_ends_with_1_after_all_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--quick", "--no-history") == 1
    shown = capsys.readouterr().out
    assert "N1.good" in shown
    assert "not measured: b: failed: RuntimeError: it died" in shown


def test_an_unknown_name_ends_with_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "N9", "--no-history") == 2
    assert "there is no benchmark 'N9'; there are N1.good, N2" in capsys.readouterr().err
