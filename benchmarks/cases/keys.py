"""What keys on tcp cost, at full parcels between two hosts.

A parcel is full with 1,024 messages, or with as many sections of 256 as fit into 1 MiB. Here the backlog is never short, so most
of them are. Encryption costs by the byte, and the work by the message, so both sizes are measured.
"""

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


def _of(name: str, payload: Payload, parcel: str) -> Benchmark:
    return Benchmark(
        name,
        f"keys on tcp, maps of {payload.name}, full parcels: {parcel}",
        [_side(KEYS, payload), _side(INSECURE, payload)],
        [
            Comparison(payload.name, "messages/s", (KEYS.name, "rate"), (INSECURE.name, "rate"), ratio_at_least(LEAST)),
            Comparison(payload.name, "us CPU/message", (KEYS.name, "cpu_us"), (INSECURE.name, "cpu_us")),
        ],
    )


BENCHMARKS = (
    _of("keys.flat", FLAT, "1,024 messages, 110 kB"),
    _of("keys.kilobyte", KILOBYTE, "768 messages, 0.8 MB"),
)
