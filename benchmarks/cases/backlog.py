"""N5: a sink that stalls behind a fast source; and what a message of a backlog costs, whatever the length of the backlog."""

from __future__ import annotations

import time

from benchmarks.benchmark import Benchmark, Effort, Side
from benchmarks.figures import Comparison, Metrics, at_most, exactly, ratio_at_most
from benchmarks.payloads import FLAT
from benchmarks.peers.zpipe import Pipeline, pipeline, wait_for
from benchmarks.processes import rss_kib

CONFIG = """\
[pipeline]
name = "bench"

[stages.source]
plugin = "generate"
unacked = {{ messages = {bound}, bytes = "4GiB" }}
options = {{ {count}{fields} }}

[stages.map]
input = "source"
plugin = "python"
queue = {{ messages = {bound}, bytes = "4GiB" }}
unacked = {{ messages = {bound}, bytes = "4GiB" }}
options = {{ function = "benchmarks.payloads:touch" }}

[stages.sink]
input = "map"
plugin = "./gated_sink.py"
queue = {{ messages = {bound}, bytes = "4GiB" }}
options = {{ gate = "FOLDER/go", tally = "FOLDER/tally" }}
"""
STALL_BOUND = 2_000
LOOK_S = 0.0005
BACKLOGS = (1_000, 10_000, 100_000, 1_000_000)
LEAST_FOR_MEMORY = 10_000
"""A backlog of a thousand takes less memory than Python takes from the system at a time, so it says nothing."""


def _text(bound: int, count: int | None = None) -> str:
    first = "" if count is None else f"count = {count}, "
    return CONFIG.format(bound=bound, count=first, fields=FLAT.options())


def _held(made: Pipeline) -> dict[str, int]:
    """By stage, the messages that it answers for: what it has produced that is not acked; of the sink what it has taken."""
    shown = made.snapshot()
    held = {link["from"]: link["in_flight"] + link["unsent"] for link in shown["links"]}
    sink = shown["stages"].get("sink", {}).get("instances", [])
    return {**held, "sink": sum(one["held"] for one in sink)}


def _full(made: Pipeline, bound: int) -> None:
    """Waits until both senders hold as much as they may."""

    def is_full() -> bool:
        held = _held(made)
        return held.get("source") == held.get("map") == bound

    wait_for(made, is_full, f"{bound} messages held by source and map")


def _memory_kib(made: Pipeline) -> int:
    return sum(rss_kib(pid) for of_stage in made.instances().values() for pid in of_stage)


def _stall(effort: Effort) -> Metrics:
    with pipeline(_text(STALL_BOUND)) as made:
        made.start()
        _full(made, STALL_BOUND)
        before_kib, end = _memory_kib(made), time.monotonic() + (3 if effort.quick else 20)
        most = dict.fromkeys(("source", "map", "sink"), 0)
        while time.monotonic() < end:
            made.check()
            most = {stage: max(most[stage], held) for stage, held in _held(made).items()}
            time.sleep(0.5)
        after_kib = _memory_kib(made)
        (made.folder / "go").touch()
        made.drain()
    held = {f"held_{stage}": number / STALL_BOUND for stage, number in most.items()}
    return {**held, "rss_before_mib": before_kib / 1024, "rss_after_mib": after_kib / 1024}


def _backlog(length: int, effort: Effort) -> Metrics:
    """The source makes the backlog, the map holds all of it, and then the sink takes it."""
    with pipeline(_text(length, count=length)) as made:
        made.start()
        _full(made, length)
        full_kib = _memory_kib(made)
        began = time.monotonic()
        (made.folder / "go").touch()
        while made.tally.count < length:
            made.check()
            time.sleep(LOOK_S)
        took_s = time.monotonic() - began
        made.finish()
    return {"us": took_s * 1e6 / length, "kib": full_kib}


def _backlogs(effort: Effort) -> Metrics:
    """`us_N`: the time a message; `bytes_N`: the memory a message of all three stages, above that of the shortest backlog."""
    metrics: dict[str, float] = {}
    least = BACKLOGS[0]
    base_kib = 0.0
    for length in BACKLOGS:
        found = _backlog(length, effort)
        metrics[f"us_{length}"] = found["us"]
        if length == least:
            base_kib = found["kib"]
        else:
            metrics[f"bytes_{length}"] = (found["kib"] - base_kib) * 1024 / (length - least)
    return metrics


BENCHMARKS = (
    Benchmark(
        "N5",
        "a sink that stalls behind a fast source",
        [Side("zpipe", _stall)],
        [
            Comparison("held by the source, of its bound", "x", ("zpipe", "held_source"), None, exactly(1)),
            Comparison("held by the map, of its bound", "x", ("zpipe", "held_map"), None, exactly(1)),
            Comparison("held by the sink, of its bound", "x", ("zpipe", "held_sink"), None, at_most(1)),
            Comparison(
                "memory after the stall",
                "MiB",
                ("zpipe", "rss_after_mib"),
                ("zpipe", "rss_before_mib"),
                ratio_at_most(1.02),
            ),
        ],
    ),
    Benchmark(
        "backlog",
        "what a message of a backlog costs, from a thousand to a million",
        [Side("zpipe", _backlogs)],
        [
            Comparison(
                f"time of {BACKLOGS[-1]:,}, against {BACKLOGS[0]:,}",
                "us/message",
                ("zpipe", f"us_{BACKLOGS[-1]}"),
                ("zpipe", f"us_{BACKLOGS[0]}"),
                ratio_at_most(1.25),
            ),
            Comparison(
                f"memory of {BACKLOGS[-1]:,}, against {LEAST_FOR_MEMORY:,}",
                "bytes/message",
                ("zpipe", f"bytes_{BACKLOGS[-1]}"),
                ("zpipe", f"bytes_{LEAST_FOR_MEMORY}"),
                ratio_at_most(1.25),
            ),
        ],
    ),
)
