"""What a program of `exec` costs its stage for each message: the stage's own CPU time, without that of the program."""

from __future__ import annotations

import shutil
import time
from functools import partial

from benchmarks.benchmark import Benchmark, Effort, Side, Unavailable
from benchmarks.figures import Comparison, Metrics, at_most
from benchmarks.peers.zpipe import Zpipe
from benchmarks.processes import cpu_s
from benchmarks.window import Load, wait_for_first

MODES = ("envelope", "line")


def _jq(mode: str, effort: Effort) -> Metrics:
    if shutil.which("jq") is None:
        raise Unavailable("there is no jq on this machine")
    command = '["jq", "-c", "--unbuffered", "."]'
    plugin = f'plugin = "exec"\noptions = {{ command = {command}, mode = "{mode}" }}'
    with Zpipe(plugin=plugin).running(Load()) as running:
        wait_for_first(running)
        time.sleep(effort.warm_up_s)
        [stage] = running.pids()["map"]
        began, count, used = time.monotonic(), running.tally.count, cpu_s(stage)
        time.sleep(effort.window_s)
        messages, used_s = running.tally.count - count, cpu_s(stage) - used
        return {"cpu_us": used_s / messages * 1e6, "rate": messages / (time.monotonic() - began)}


BENCHMARKS = (
    Benchmark(
        "exec",
        "what jq, as a program of `exec`, costs its stage",
        [Side(mode, partial(_jq, mode)) for mode in MODES],
        [
            Comparison(f"a stage with jq, mode {mode}", unit, (mode, metric), None, goal)
            for mode in MODES
            for unit, metric, goal in (("us CPU/message", "cpu_us", at_most(15)), ("messages/s", "rate", None))
        ],
    ),
)
