"""What credit and acks cost at full load: the part of the CPU time of all three stages that goes into statements.

There is no zpipe without acks to compare with, so it is measured from the inside (`benchmarks/probes`).
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

from benchmarks.benchmark import Benchmark, Effort, Side
from benchmarks.figures import Comparison, Metrics, at_most
from benchmarks.peers.zpipe import Pipeline, Zpipe, pipeline
from benchmarks.processes import cpu_s
from benchmarks.window import Load, wait_for_first

PROBES = Path(__file__).parents[1] / "probes"


def _zpipe(effort: Effort) -> Metrics:
    with pipeline(Zpipe().text(Load())) as made:
        probe = made.folder / "probe"
        probe.mkdir()
        made.env["PYTHONPATH"] = os.pathsep.join((str(PROBES), made.env["PYTHONPATH"]))
        made.env["BENCH_PROBE"] = str(probe)
        made.start()
        wait_for_first(made)
        time.sleep(effort.warm_up_s)
        pids = [pid for of_stage in made.instances().values() for pid in of_stage]
        statements_s, all_s = _spent(made, pids)
        time.sleep(effort.window_s)
        statements_after_s, all_after_s = _spent(made, pids)
        made.drain()
    return {"percent": (statements_after_s - statements_s) / (all_after_s - all_s) * 100}


def _spent(made: Pipeline, pids: list[int]) -> tuple[float, float]:
    """CPU seconds of these processes (in statements, in all)."""
    counted = [struct.unpack("q", (made.folder / "probe" / str(pid)).read_bytes())[0] for pid in pids]
    return sum(counted) / 1e9, sum(map(cpu_s, pids))


BENCHMARKS = (
    Benchmark(
        "acks",
        "the part of the CPU time that credit and acks take",
        [Side("zpipe", _zpipe)],
        [Comparison("credit and acks, of all CPU time", "%", ("zpipe", "percent"), None, at_most(10))],
    ),
)
