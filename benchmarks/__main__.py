"""Prints N1 (throughput) and N2 (latency) of zpipe beside those of the hand-written baseline, from one run on one machine.

The two sides alternate, so that a machine that gets slower slows both. Each figure is the median of its runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass

from benchmarks import baseline, zpipe_side
from benchmarks.workload import COUNT


@dataclass(frozen=True)
class Figure:
    """One line of the table. `runs` has (baseline, zpipe) of each run."""

    name: str
    what: str
    unit: str
    baseline: float
    zpipe: float
    ratio: float
    target: str
    met: bool
    runs: list[tuple[float, float]]


def figure(name: str, what: str, unit: str, runs: list[tuple[float, float]], target: float, more: bool) -> Figure:
    by_hand = statistics.median(run[0] for run in runs)
    ours = statistics.median(run[1] for run in runs)
    ratio = ours / by_hand
    met = ratio >= target if more else ratio <= target
    return Figure(name, what, unit, by_hand, ours, ratio, f"{'>=' if more else '<='} {target:g}", met, runs)


def measure_throughput(rounds: int, count: int) -> list[Figure]:
    runs = []
    for number in range(rounds):
        progress(f"N1 run {number + 1} of {rounds}")
        runs.append((baseline.throughput(count), zpipe_side.throughput(count)))
    return [figure("N1", "throughput", "messages/s", runs, 2.0, more=True)]


def measure_latency(rounds: int) -> list[Figure]:
    runs = []
    for number in range(rounds):
        progress(f"N2 run {number + 1} of {rounds}")
        runs.append((baseline.idle_latency(), zpipe_side.idle_latency()))
    p50 = [(by_hand.p50, ours.p50) for by_hand, ours in runs]
    p99 = [(by_hand.p99, ours.p99) for by_hand, ours in runs]
    return [
        figure("N2", "latency p50", "us", p50, 3.0, more=False),
        figure("N2", "latency p99", "us", p99, 3.0, more=False),
    ]


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(figures: list[Figure]) -> str:
    lines = [f"{'':3} {'':12} {'unit':11} {'by hand':>10} {'zpipe':>10} {'ratio':>7}  target"]
    for f in figures:
        verdict = "met" if f.met else "NOT MET"
        numbers = f"{f.baseline:>10,.0f} {f.zpipe:>10,.0f} {f.ratio:>7.2f}"
        lines.append(f"{f.name:3} {f.what:12} {f.unit:11} {numbers}  {f.target} {verdict}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=["N1", "N2"], help="measure only this one")
    parser.add_argument("--count", type=int, default=COUNT, help="messages of a throughput run (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document in place of the table")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    if arguments.only != "N2":
        figures += measure_throughput(arguments.rounds, arguments.count)
    if arguments.only != "N1":
        figures += measure_latency(arguments.rounds)
    print(json.dumps([asdict(f) for f in figures]) if arguments.json else table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
