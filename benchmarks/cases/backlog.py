"""What a message of a backlog costs, whatever the length of the backlog: the time to take it in and to work it off, and memory.

A sink that takes all in one batch has the longest backlog there is: it holds every message, and the stages before it answer
for each until the batch is done.
"""

from __future__ import annotations

from benchmarks.benchmark import Benchmark, Effort, Side
from benchmarks.figures import Comparison, Metrics, ratio_at_most
from benchmarks.peers.zpipe import Pipeline, pipeline, wait_for
from benchmarks.processes import rss_kib
from benchmarks.tally import Tally

CONFIG = """\
[pipeline]
name = "bench"

[stages.source]
plugin = "./gated_source.py"
unacked = {{ messages = {bound}, bytes = "4GiB" }}
options = {{ gate = "FOLDER/go", count = {count}, began = "FOLDER/began"{hold} }}

[stages.map]
input = "source"
plugin = "python"
unacked = {{ messages = {bound}, bytes = "4GiB" }}
options = {{ function = "benchmarks.touch:touch" }}

[stages.sink]
input = "map"
plugin = "./counting_sink.py"
queue = {{ messages = {bound}, bytes = "4GiB" }}
batch = {{ messages = {bound}, bytes = "4GiB", timeout = "1h" }}
options = {{ tally = "FOLDER/tally", stride = 1, timed = false }}
"""
LEAST = 10_000
"""What a thousand take is the latency of three stages, and less memory than Python asks the system for at a time."""
LENGTHS = (1_000, LEAST, 100_000, 1_000_000)


def _time_us(length: int) -> float:
    """From the first message of the source until the sink has been given all, for each message."""
    with pipeline(CONFIG.format(count=length, bound=length, hold="")) as made:
        began = _start(made)
        made.finish()
        return (made.tally.first_at - began.first_at) * 1e6 / length


def _memory_kib(length: int) -> int:
    """Of all three stages, while the batch still waits for one more."""
    with pipeline(CONFIG.format(count=length, bound=length + 1, hold=', hold = "FOLDER/end"')) as made:
        _start(made)
        wait_for(made, lambda: _held_by_sink(made) == length, f"{length} messages held by the sink")
        kib = sum(rss_kib(pid) for of_stage in made.instances().values() for pid in of_stage)
        (made.folder / "end").touch()
        made.finish()
    return kib


def _start(made: Pipeline) -> Tally:
    began = Tally.create(made.folder / "began")
    (made.folder / "go").touch()
    made.start()
    return began


def _held_by_sink(made: Pipeline) -> int:
    stages = made.snapshot()["stages"]
    return sum(one["held"] for one in stages.get("sink", {}).get("instances", []))


def _zpipe(effort: Effort) -> Metrics:
    """`us_N`: the time a message; `bytes_N`: the memory a message of all three stages, above that of the shortest backlog."""
    metrics = {f"us_{length}": _time_us(length) for length in LENGTHS}
    base_kib = _memory_kib(LENGTHS[0])
    for length in LENGTHS[1:]:
        metrics[f"bytes_{length}"] = (_memory_kib(length) - base_kib) * 1024 / (length - LENGTHS[0])
    return metrics


def _row(what: str, unit: str, metric: str) -> Comparison:
    long, least = (f"{metric}_{length}" for length in (LENGTHS[-1], LEAST))
    what = f"{what} of {LENGTHS[-1]:,} against {LEAST:,}"
    return Comparison(what, unit, ("zpipe", long), ("zpipe", least), ratio_at_most(1.25))


BENCHMARKS = (
    Benchmark(
        "backlog",
        "what a message of a backlog costs, from a thousand to a million",
        [Side("zpipe", _zpipe)],
        [_row("time", "us/message", "us"), _row("memory", "bytes/message", "bytes")],
    ),
)
