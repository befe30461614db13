"""How benchmarks are chosen and run: in turn, with what is missing said."""

from __future__ import annotations

import pytest

from benchmarks.benchmark import Benchmark, Effort, Side, Unavailable, chosen, run
from benchmarks.cases import ALL
from benchmarks.figures import Metrics

THREE = [Benchmark(name, "", [], []) for name in ("N1.flat", "N1.nested", "N13")]


def names(*wanted: str) -> list[str]:
    return [benchmark.name for benchmark in chosen(THREE, wanted)]


def test_a_name_chooses_its_benchmark_or_all_of_its_group() -> None:
    assert names() == ["N1.flat", "N1.nested", "N13"]
    assert names("n1") == ["N1.flat", "N1.nested"]
    assert names("N13", "N1.flat") == ["N1.flat", "N13"]


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(LookupError, match=r"no benchmark 'N2'; there are N1\.flat, N1\.nested, N13"):
        names("N1", "N2")


def test_the_sides_take_turns() -> None:
    order: list[str] = []

    def side(name: str) -> Side:
        def measure(effort: Effort) -> Metrics:
            order.append(name)
            return {"n": len(order)}

        return Side(name, measure)

    samples = run(Benchmark("x", "", [side("a"), side("b")], []), Effort(rounds=2), lambda _: None)
    assert order == ["a", "b", "a", "b"]
    assert samples.as_json() == {"sides": {"a": {"n": [1, 3]}, "b": {"n": [2, 4]}}, "missing": {}}


def test_a_side_that_is_unavailable_is_tried_once_and_one_that_fails_in_each_round() -> None:
    tried: list[str] = []

    def absent(effort: Effort) -> Metrics:
        tried.append("absent")
        raise Unavailable("no server")

    def broken(effort: Effort) -> Metrics:
        tried.append("broken")
        if len(tried) > 2:
            return {"n": 1.0}
        raise RuntimeError("it died")

    sides = [Side("absent", absent), Side("broken", broken)]
    samples = run(Benchmark("x", "", sides, []), Effort(rounds=2), lambda _: None)
    assert tried == ["absent", "broken", "broken"]
    assert samples.missing == {"absent": "no server", "broken": "failed: RuntimeError: it died"}
    assert samples.values(("broken", "n")) == [None, 1.0]


@pytest.mark.parametrize("benchmark", ALL, ids=lambda benchmark: benchmark.name)
def test_every_comparison_is_of_sides_that_are_measured(benchmark: Benchmark) -> None:
    sides = [side.name for side in benchmark.sides]
    assert len(set(sides)) == len(sides)
    for comparison in benchmark.comparisons:
        assert comparison.ours[0] in sides
        assert comparison.reference is None or comparison.reference[0] in sides


def test_no_two_benchmarks_have_one_name() -> None:
    assert len({benchmark.name for benchmark in ALL}) == len(ALL)
