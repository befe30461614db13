"""The page of figures is made from a run's JSON, and its own text stays."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cases import ALL
from benchmarks.figures import Comparison, Samples, figure, ratio_at_least
from benchmarks.performance_page import BEGIN, END, PAGE, with_figures


def run_document() -> dict[str, Any]:
    samples = Samples()
    samples.add("zpipe", {"rate": 300.0})
    samples.add("other", {"rate": 100.0})
    comparison = Comparison("throughput", "messages/s", ("zpipe", "rate"), ("other", "rate"), ratio_at_least(2))
    machine = {"system": "Linux 6", "processor": "Some CPU", "cores": 2, "memory_gib": 8.0, "load": 0.25}
    return {
        "at": "2030-01-02T03:04:05+00:00",
        "commit": "abc",
        "machine": machine,
        "versions": {"python": "3.11.7", "redis": None},
        "quick": False,
        "rounds": 1,
        "figures": [figure("N1", comparison, samples).as_json()],
    }


def test_the_figures_stand_between_the_marks_and_all_else_stays() -> None:
    made = with_figures(f"before\n{BEGIN}\nold\n{END}\nafter\n", run_document())
    assert made.startswith("before\n") and made.endswith("\nafter\n")
    assert "old" not in made
    assert "| N1 | throughput | messages/s | 300 | other | 100 | 3.00 | >= 2 x | met |" in made
    assert "2030-01-02, commit `abc`, 1 round. 2 cores of Some CPU, 8 GiB" in made
    assert "python 3.11.7." in made
    assert with_figures(made, run_document()) == made


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no <!-- figures: begin -->"):
        with_figures("text", run_document())


def test_the_page_in_the_repository_has_the_marks_and_plots_that_are_there() -> None:
    page = PAGE.read_text()
    assert page.index(BEGIN) < page.index(END)
    for link in re.findall(r"\]\(([^)]+)\)", page):
        assert Path(PAGE.parent, link).is_file(), link


def test_the_page_s_figures_are_of_benchmarks_that_there_are() -> None:
    figures = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    names = set(re.findall(r"^\| (\S+) \|", figures, re.MULTILINE))
    assert names <= {benchmark.name for benchmark in ALL}
