"""N5: a sink that stalls behind a fast source: what is held, and whether it grows."""

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
unacked = {{ messages = {bound} }}
options = {{ {fields} }}

[stages.map]
input = "source"
plugin = "python"
queue = {{ messages = {bound} }}
unacked = {{ messages = {bound} }}
options = {{ function = "benchmarks.touch:touch" }}

[stages.sink]
input = "map"
plugin = "./gated_sink.py"
queue = {{ messages = {bound} }}
options = {{ gate = "FOLDER/go", tally = "FOLDER/tally" }}
"""
BOUND = 2_000


def _text() -> str:
    return CONFIG.format(bound=BOUND, fields=FLAT.options())


def _held(made: Pipeline) -> dict[str, int]:
    """By stage, the messages that it answers for: what it has produced that is not acked; of the sink what it has taken."""
    shown = made.snapshot()
    held = {link["from"]: link["in_flight"] + link["unsent"] for link in shown["links"]}
    sink = shown["stages"].get("sink", {}).get("instances", [])
    return {**held, "sink": sum(one["held"] for one in sink)}


def _full(made: Pipeline) -> None:
    """Waits until both senders hold as much as they may."""

    def is_full() -> bool:
        held = _held(made)
        return held.get("source") == held.get("map") == BOUND

    wait_for(made, is_full, f"{BOUND} messages held by source and map")


def _memory_kib(made: Pipeline) -> int:
    return sum(rss_kib(pid) for of_stage in made.instances().values() for pid in of_stage)


def _stall(effort: Effort) -> Metrics:
    with pipeline(_text()) as made:
        made.start()
        _full(made)
        before_kib, end = _memory_kib(made), time.monotonic() + (3 if effort.quick else 20)
        most = dict.fromkeys(("source", "map", "sink"), 0)
        while time.monotonic() < end:
            made.check()
            most = {stage: max(most[stage], held) for stage, held in _held(made).items()}
            time.sleep(0.5)
        after_kib = _memory_kib(made)
        (made.folder / "go").touch()
        made.drain()
    held = {f"held_{stage}": number / BOUND for stage, number in most.items()}
    return {**held, "rss_before_mib": before_kib / 1024, "rss_after_mib": after_kib / 1024}


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
)
