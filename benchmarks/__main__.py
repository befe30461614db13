"""zpipe beside what its users would write or run instead, as one table of ratios.

The sides of a benchmark take turns, so that a machine that gets slower slows all. A figure is the median of the rounds, with the
least and the greatest beside it; a ratio is taken round by round.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import history, machine, table
from benchmarks.benchmark import QUICK, Benchmark, Effort, chosen, figures, run
from benchmarks.figures import Figure


def main() -> int:
    from benchmarks.cases import ALL

    arguments = _parser(ALL).parse_args()
    if arguments.list:
        print("\n".join(f"{benchmark.name:12} {benchmark.title}" for benchmark in ALL))
        return 0
    try:
        benchmarks = chosen(ALL, arguments.names)
    except LookupError as error:
        print(f"benchmarks: {error.args[0]}", file=sys.stderr)
        return 2
    effort = QUICK if arguments.quick else Effort()
    if arguments.rounds is not None:
        effort = replace(effort, rounds=arguments.rounds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what it has started is then ended too
    found, made = _run_all(benchmarks, effort)
    if arguments.history is not None:
        history.append(arguments.history, found)
    print(json.dumps(found) if arguments.json else table.as_text(made))
    return 1 if any("failed" in one.missing for one in made) else 0


def _parser(benchmarks: Sequence[Benchmark]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = sorted({benchmark.name.partition(".")[0] for benchmark in benchmarks})
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join(names)}, or one of --list")
    parser.add_argument("--list", action="store_true", help="print all names")
    parser.add_argument("--quick", action="store_true", help="one round and short windows: to see whether it works")
    parser.add_argument("--rounds", type=_positive, help=f"measurements of each side (default {Effort.rounds})")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document, with all samples, in place of the table"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--history",
        type=Path,
        metavar="FILE",
        default=history.DEFAULT,
        help="append a line to FILE (default %(default)s)",
    )
    where.add_argument("--no-history", dest="history", action="store_const", const=None, help="append nothing")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} rounds: allowed is 1 or more")
    return number


def _run_all(benchmarks: Sequence[Benchmark], effort: Effort) -> tuple[dict[str, Any], list[Figure]]:
    """The run as a JSON document, and its figures."""
    document: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **machine.describe()}
    document |= {"quick": effort.quick, "rounds": effort.rounds, "benchmarks": {}}
    made: list[Figure] = []
    for benchmark in benchmarks:
        samples = run(benchmark, effort, _progress)
        made += figures(benchmark, samples)
        document["benchmarks"][benchmark.name] = {"title": benchmark.title, **samples.as_json()}
    document["figures"] = [one.as_json() for one in made]
    return document, made


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
