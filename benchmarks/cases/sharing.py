"""N3: work shared among four instances of which one is ten times slower, and with one that joins late.

The work is sleeping. Its ideal is that no worker ever waits: the rate is then the sum of all, by the mean of their calls.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.benchmark import Benchmark, Effort, Side
from benchmarks.cases.sharing_by_hand import SharedByHand
from benchmarks.figures import Comparison, Metrics, at_most
from benchmarks.peers.zpipe import Pipeline, pipeline, wait_for
from benchmarks.processes import end

SLOWER = 10
CONFIG = """\
[pipeline]
name = "bench"

[stages.source]
plugin = "./gated_source.py"
options = {{ gate = "FOLDER/go", count = {count} }}

[stages.work]
input = "source"
plugin = "./sleeping_sink.py"
instances = {instances}
options = {{ folder = "FOLDER/calls", seconds = {seconds}, slower = {slower} }}
"""
WORKERS = 4
SHARE = 0.9
"""A joiner has its share when it works at this part of the others' rate, over the last calls."""
LAST_CALLS = 20


def span_by_ideal(calls: list[list[tuple[float, float]]]) -> float:
    """The time from the first call to the end of the last, by what it would have been had nobody waited.

    calls  of each worker the (start, seconds) of each call
    """
    first = min(start for of_one in calls for start, _ in of_one)
    last = max(start + seconds for of_one in calls for start, seconds in of_one)
    rate = sum(len(of_one) / sum(seconds for _, seconds in of_one) for of_one in calls)
    return (last - first) * rate / sum(map(len, calls))


def joined_after_s(joiner: list[tuple[float, float]], opened_at: float) -> float:
    """Seconds from `opened_at` until the joiner had its share: the end of the first `LAST_CALLS` calls in a row with no more time
    between them than the share allows."""
    for n in range(LAST_CALLS, len(joiner) + 1):
        row = joiner[n - LAST_CALLS : n]
        span = row[-1][0] + row[-1][1] - row[0][0]
        if sum(seconds for _, seconds in row) >= SHARE * span:
            return row[-1][0] + row[-1][1] - opened_at
    raise RuntimeError(f"the joiner had no share of the work in its {len(joiner)} calls")


def _calls(folder: Path, instance: int) -> tuple[float, list[tuple[float, float]]]:
    """(when the plugin was opened, its calls)"""
    found = json.loads((folder / "calls" / str(instance)).read_text())
    return found["opened_at"], list(map(tuple, found["calls"]))


def _start(made: Pipeline, instances: int) -> None:
    """Everybody is there before the first message."""
    (made.folder / "calls").mkdir()
    made.start()
    opened = made.folder / "calls"
    wait_for(made, lambda: len(list(opened.glob("*.open"))) == instances, f"{instances} instances are open")


def _zpipe(seconds: float, count: int, effort: Effort) -> Metrics:
    count = count // 4 if effort.quick else count
    text = CONFIG.format(count=count, instances=WORKERS, seconds=seconds, slower=SLOWER)
    with pipeline(text) as made:
        _start(made, WORKERS)
        (made.folder / "go").touch()
        made.finish()
        calls = [_calls(made.folder, instance + 1)[1] for instance in range(WORKERS)]
    return {"span": span_by_ideal([of_one for of_one in calls if of_one])}


def _by_hand(seconds: float, count: int, effort: Effort) -> Metrics:
    return {"span": span_by_ideal(SharedByHand(WORKERS, seconds, SLOWER, count).calls())}


def _joiner(effort: Effort) -> Metrics:
    """Three are at work; the fourth is started when a part of the work is done."""
    seconds, count = 0.005, 1200 if effort.quick else 2400
    text = CONFIG.format(count=count, instances=WORKERS - 1, seconds=seconds, slower=1)
    with pipeline(text) as made:
        _start(made, WORKERS - 1)
        (made.folder / "go").touch()
        joiner = made.stage("work", WORKERS)
        try:
            made.finish()
            joiner.wait(30)
        finally:
            end(joiner)
        opened_at, calls = _calls(made.folder, WORKERS)
    return {"seconds": joined_after_s(calls, opened_at)}


def _shared(name: str, seconds: float, count: int, count_by_hand: int) -> Benchmark:
    sides = [
        Side("zpipe", lambda effort: _zpipe(seconds, count, effort)),
        Side("pyzmq PUSH", lambda effort: _by_hand(seconds, count_by_hand, effort)),
    ]
    what, unit = f"four, one {SLOWER} x slower, {seconds * 1e3:g} ms of work", "x ideal"
    return Benchmark(
        name,
        "work shared among four, one of them slower",
        sides,
        [Comparison(what, unit, ("zpipe", "span"), ("pyzmq PUSH", "span"), at_most(1.08))],
    )


BENCHMARKS = (
    _shared("N3.5ms", 0.005, 4_000, 200),
    _shared("N3.200us", 0.0002, 20_000, 4_000),
    Benchmark(
        "N3.joiner",
        "a fourth instance that joins three at work",
        [Side("zpipe", _joiner)],
        [Comparison("late joiner has its share", "s", ("zpipe", "seconds"), None, at_most(1))],
    ),
)
