"""What a benchmark is, and how it is run: each side once a round, in turn, so that a machine that gets slower slows all.

Does not belong here: any benchmark of its own, which is a file in `benchmarks/cases`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.figures import Comparison, Figure, Metrics, Samples, figure


class Unavailable(Exception):
    """A side cannot be measured here, with the reason in words. Others can."""


@dataclass(frozen=True)
class Effort:
    """How long is measured: `rounds` of each side, each after `warm_up_s` for `window_s`. `quick` also makes runs of a fixed
    count shorter."""

    rounds: int = 3
    warm_up_s: float = 1.0
    window_s: float = 2.0
    quick: bool = False

    @property
    def long_window_s(self) -> float:
        """For what happens seldom, such as the work of an idle process."""
        return 3 * self.window_s


QUICK = Effort(rounds=1, warm_up_s=0.5, window_s=1.0, quick=True)


@dataclass(frozen=True)
class Side:
    """One thing that is measured, once a round. `measure` raises Unavailable if it cannot be here."""

    name: str
    measure: Callable[[Effort], Metrics]


@dataclass(frozen=True)
class Benchmark:
    """`name` chooses it on the command line, as does the part of it before the dot. `title` says what is measured."""

    name: str
    title: str
    sides: Sequence[Side]
    comparisons: Sequence[Comparison]


Progress = Callable[[str], None]


def run(benchmark: Benchmark, effort: Effort, progress: Progress) -> Samples:
    """A side that is unavailable is not tried again. One that fails is, in the next round, and the failure is kept."""
    samples = Samples()
    unavailable: set[str] = set()
    for number in range(effort.rounds):
        for side in benchmark.sides:
            if side.name in unavailable:
                continue
            progress(f"{benchmark.name} {number + 1}/{effort.rounds}: {side.name}")
            try:
                samples.add(side.name, side.measure(effort))
            except Unavailable as reason:
                unavailable.add(side.name)
                samples.missing[side.name] = str(reason)
                progress(f"  unavailable: {reason}")
            except Exception as error:
                samples.add(side.name, None)
                samples.missing[side.name] = f"failed: {type(error).__name__}: {error}"
                progress(traceback.format_exc())
    return samples


def figures(benchmark: Benchmark, samples: Samples) -> list[Figure]:
    return [figure(benchmark.name, comparison, samples) for comparison in benchmark.comparisons]


def chosen(benchmarks: Sequence[Benchmark], names: Sequence[str]) -> list[Benchmark]:
    """Those of these names, in their order; all for no name. Raises LookupError for a name that chooses none."""
    for name in names:
        if not any(_chooses(name, benchmark) for benchmark in benchmarks):
            known = ", ".join(benchmark.name for benchmark in benchmarks)
            raise LookupError(f"there is no benchmark {name!r}; there are {known}")
    return [b for b in benchmarks if not names or any(_chooses(name, b) for name in names)]


def _chooses(name: str, benchmark: Benchmark) -> bool:
    return name.lower() in (benchmark.name.lower(), benchmark.name.partition(".")[0].lower())
