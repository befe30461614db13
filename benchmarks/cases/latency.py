"""N2: the time from source to sink, idle, at half of what a side can carry, and over a curve of loads."""

from __future__ import annotations

from benchmarks.benchmark import Benchmark, Effort, Side
from benchmarks.figures import Comparison, Goal, Metrics, at_most, ratio_at_most
from benchmarks.peers.by_hand import ByHand
from benchmarks.peers.zpipe import Zpipe
from benchmarks.window import Load, Peer, through

IDLE_RATE = 1_000
CURVE = (1_000, 5_000, 20_000, 50_000, 100_000, 150_000, 200_000, 300_000)
"""Messages a second that are asked for. A side that cannot carry as many shows where it is full."""
ZPIPE, BY_HAND = Zpipe(), ByHand()
CPU_GOALS = {"source": 150, "map": 200, "sink": 150}


def _idle(peer: Peer) -> Side:
    def measure(effort: Effort) -> Metrics:
        return through(peer, Load(rate=IDLE_RATE), effort.warm_up_s, effort.long_window_s / 2)

    return Side(peer.name, measure)


def _half(peer: Peer) -> Side:
    """Half of what this side itself carries at that moment."""

    def measure(effort: Effort) -> Metrics:
        full = through(peer, Load(), effort.warm_up_s, effort.window_s / 2)["rate"]
        return through(peer, Load(rate=full / 2), effort.warm_up_s, effort.window_s)

    return Side(peer.name, measure)


def _at(peer: Peer, rate: int) -> Side:
    def measure(effort: Effort) -> Metrics:
        return through(peer, Load(rate=rate), effort.warm_up_s, effort.window_s)

    return Side(f"{peer.name} at {rate:,}/s", measure)


def _ages(metric: str, goal: Goal | None) -> Comparison:
    return Comparison(metric, "us", (ZPIPE.name, f"{metric}_us"), (BY_HAND.name, f"{metric}_us"), goal)


def _cpu(role: str, limit: float) -> Comparison:
    metric = f"cpu_{role}_us"
    what, unit = f"CPU of the {role}", "us CPU/message"
    return Comparison(what, unit, (ZPIPE.name, metric), (BY_HAND.name, metric), at_most(limit))


BENCHMARKS = (
    Benchmark(
        "N2.idle",
        f"latency at {IDLE_RATE:,} messages a second",
        [_idle(ZPIPE), _idle(BY_HAND)],
        [
            _ages("p50", ratio_at_most(3)),
            _ages("p99", ratio_at_most(4)),
            *(_cpu(role, limit) for role, limit in CPU_GOALS.items()),
        ],
    ),
    Benchmark(
        "N2.half",
        "latency at half of what each side can carry",
        [_half(ZPIPE), _half(BY_HAND)],
        [
            Comparison("rate", "messages/s", (ZPIPE.name, "rate"), (BY_HAND.name, "rate")),
            _ages("p50", None),
            _ages("p99", at_most(5_000)),
        ],
    ),
    Benchmark(
        "N2.curve",
        "latency against load",
        [_at(peer, rate) for rate in CURVE for peer in (ZPIPE, BY_HAND)],
        [
            Comparison(
                f"p99 at {rate:,}/s",
                "us",
                (_at(ZPIPE, rate).name, "p99_us"),
                (_at(BY_HAND, rate).name, "p99_us"),
            )
            for rate in CURVE
        ],
    ),
)
