"""N11: a long row of stages against three: the CPU time of each stage, and the latency through all."""

from __future__ import annotations

from benchmarks.benchmark import Benchmark, Effort, Side
from benchmarks.figures import Comparison, Metrics, ratio_at_most
from benchmarks.peers.by_hand import ByHand
from benchmarks.peers.zpipe import Zpipe
from benchmarks.window import Load, Peer, through

RATE = 250
"""Low enough that twelve stages do not fill the cores: then the stages are compared, and not the wait for a core."""
SHORT, MIDDLE, LONG = 3, 6, 12
"""Stages, source and sink among them. MIDDLE is for the plot."""


def _side(peer: Peer, stages: int) -> Side:
    def measure(effort: Effort) -> Metrics:
        metrics = through(peer, Load(rate=RATE), effort.warm_up_s, effort.window_s)
        return {**metrics, "cpu_stage_us": metrics["cpu_us"] / stages}

    return Side(_name(peer, stages), measure)


def _name(peer: Peer, stages: int) -> str:
    return f"{peer.name}, {stages} stages"


def _of(stages: int) -> tuple[Peer, Peer]:
    return Zpipe(middles=stages - 2), ByHand(middles=stages - 2)


(SHORT_ZPIPE, SHORT_HAND), (LONG_ZPIPE, LONG_HAND) = _of(SHORT), _of(LONG)
OURS, THEIRS = _name(LONG_ZPIPE, LONG), _name(SHORT_ZPIPE, SHORT)
BENCHMARKS = (
    Benchmark(
        "N11",
        f"{LONG} stages in a row at {RATE:,} messages a second",
        [_side(peer, stages) for stages in (SHORT, MIDDLE, LONG) for peer in _of(stages)],
        [
            Comparison(
                "CPU a stage", "us CPU/message", (OURS, "cpu_stage_us"), (THEIRS, "cpu_stage_us"), ratio_at_most(1.3)
            ),
            Comparison("p50", "us", (OURS, "p50_us"), (THEIRS, "p50_us"), ratio_at_most(4)),
            Comparison("p50", "us", (OURS, "p50_us"), (_name(LONG_HAND, LONG), "p50_us")),
            Comparison("p50 by hand", "us", (_name(LONG_HAND, LONG), "p50_us"), (_name(SHORT_HAND, SHORT), "p50_us")),
        ],
    ),
)
