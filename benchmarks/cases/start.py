"""N12: the start of `zpipe run` with ten stages, up to the first message at the sink."""

from __future__ import annotations

import time

from benchmarks.benchmark import Benchmark, Effort, Side
from benchmarks.figures import Comparison, Metrics, at_most
from benchmarks.peers.by_hand import ByHand
from benchmarks.peers.zpipe import Zpipe
from benchmarks.processes import cpu_s
from benchmarks.window import STAGES, Load, Peer, wait_for_first

COUNT = 10
LOAD = Load(rate=1_000)


def _side(peer: Peer) -> Side:
    def measure(effort: Effort) -> Metrics:
        """`cpu_s` is that of one instance, up to the first message."""
        began = time.monotonic()
        with peer.running(LOAD) as running:
            wait_for_first(running)
            pids = running.pids()
            used = sum(cpu_s(pid) for role in STAGES for pid in pids[role])
            return {"first_s": running.tally.first_at - began, "cpu_s": used / COUNT}

    return Side(peer.name, measure)


ZPIPE, BY_HAND = Zpipe(middles=COUNT - 2), ByHand(middles=COUNT - 2)


def _row(what: str, unit: str, metric: str, limit: float) -> Comparison:
    return Comparison(what, unit, (ZPIPE.name, metric), (BY_HAND.name, metric), at_most(limit))


BENCHMARKS = (
    Benchmark(
        "N12",
        f"start of {COUNT} stages",
        [_side(ZPIPE), _side(BY_HAND)],
        [
            _row("first message at the sink", "s", "first_s", 1.2),
            _row("CPU an instance until then", "s", "cpu_s", 0.2),
        ],
    ),
)
