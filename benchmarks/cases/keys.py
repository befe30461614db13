"""What keys on tcp cost, at full parcels between two hosts."""

from __future__ import annotations

from benchmarks.benchmark import Benchmark, Side
from benchmarks.figures import Comparison, ratio_at_least
from benchmarks.payloads import FLAT, KILOBYTE, Payload
from benchmarks.peers.hosts import AcrossHosts
from benchmarks.window import Load, through

KEYS, INSECURE = AcrossHosts("zpipe, keys"), AcrossHosts("zpipe, insecure", insecure=True)
LEAST = 0.75
"""Of the throughput without keys."""


def _side(peer: AcrossHosts, payload: Payload) -> Side:
    return Side(peer.name, lambda effort: through(peer, Load(payload), effort.warm_up_s, effort.window_s))


def _of(name: str, payload: Payload) -> Benchmark:
    return Benchmark(
        name,
        f"keys on tcp, maps of {payload.name}",
        [_side(KEYS, payload), _side(INSECURE, payload)],
        [
            Comparison(payload.name, "messages/s", (KEYS.name, "rate"), (INSECURE.name, "rate"), ratio_at_least(LEAST)),
            Comparison(payload.name, "us CPU/message", (KEYS.name, "cpu_us"), (INSECURE.name, "cpu_us")),
        ],
    )


BENCHMARKS = (_of("keys.flat", FLAT), _of("keys.kilobyte", KILOBYTE))
