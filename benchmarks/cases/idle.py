"""N4: what one idle instance takes (memory, CPU time), and how long it takes to be ready."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial

from benchmarks.benchmark import Benchmark, Effort, Side
from benchmarks.figures import Comparison, Metrics, at_most
from benchmarks.notify import ready_after_s
from benchmarks.peers.by_hand import ByHand
from benchmarks.peers.roles import ROOT, folder
from benchmarks.peers.zpipe import Pipeline, Zpipe, pipeline
from benchmarks.processes import cpu_s, end, rss_kib
from benchmarks.window import Load, Running, wait_for_first

SETTLE_S = 2.0
"""After the first message: what a start leaves behind is done by then."""
AT_REST = Load(rate=0.001)
"""One message at once, the next after a quarter of an hour."""


def _at_rest(running: Running, effort: Effort) -> Metrics:
    """`idle_percent` is that of the stage that takes the most."""
    wait_for_first(running)
    time.sleep(SETTLE_S)
    pids = {role: of[0] for role, of in running.pids().items() if role != "run"}
    began = time.monotonic()
    before = {role: cpu_s(pid) for role, pid in pids.items()}
    time.sleep(effort.long_window_s)
    seconds = time.monotonic() - began
    idle = {f"idle_{role}_percent": (cpu_s(pid) - before[role]) / seconds * 100 for role, pid in pids.items()}
    rss = {f"rss_{role}_mib": rss_kib(pid) / 1024 for role, pid in pids.items()}
    return {**idle, **rss, "idle_percent": max(idle.values())}


def _zpipe(effort: Effort) -> Metrics:
    with Zpipe().running(AT_REST) as running:
        metrics = _at_rest(running, effort)
    ready_s: dict[str, float] = {}
    for role, stage in (("map", "map01"), ("sink", "sink")):
        with pipeline(Zpipe().text(AT_REST)) as made:
            ready_s[f"ready_{role}_s"] = ready_after_s(partial(_start, made, stage), made.folder)
    return {**metrics, **ready_s, "help_s": _seconds([sys.executable, "-m", "zpipe", "--help"])}


def _start(made: Pipeline, stage: str, env: dict[str, str]) -> subprocess.Popen[str]:
    return made.stage(stage, 1, NOTIFY_SOCKET=env["NOTIFY_SOCKET"])


def _by_hand(effort: Effort) -> Metrics:
    with ByHand().running(AT_REST) as running:
        metrics = _at_rest(running, effort)
    with folder() as path:

        def start(env: dict[str, str]) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "benchmarks.notify", str(path)]
            return subprocess.Popen(command, cwd=ROOT, env=env, text=True)

        ready_s = ready_after_s(start, path)
    bare = _seconds([sys.executable, "-c", "import click"])
    return {**metrics, "ready_map_s": ready_s, "ready_sink_s": ready_s, "help_s": bare}


def _seconds(command: list[str]) -> float:
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True)
    try:
        process.wait(60)
    finally:
        end(process)
    return time.monotonic() - began


def _row(what: str, unit: str, metric: str, limit: float) -> Comparison:
    return Comparison(what, unit, ("zpipe", metric), ("pyzmq + cbor2", metric), at_most(limit))


BENCHMARKS = (
    Benchmark(
        "N4",
        "one idle instance",
        [Side("zpipe", _zpipe), Side("pyzmq + cbor2", _by_hand)],
        [
            _row("memory of an idle sink", "MiB", "rss_sink_mib", 29),
            _row("memory of an idle `python` stage", "MiB", "rss_map_mib", 29),
            _row("CPU of an idle stage", "% of a core", "idle_percent", 0.25),
            _row("a sink is ready", "s", "ready_sink_s", 0.25),
            _row("a `python` stage is ready", "s", "ready_map_s", 0.25),
            _row("`zpipe --help`, and Python that imports click", "s", "help_s", 0.15),
        ],
    ),
)
