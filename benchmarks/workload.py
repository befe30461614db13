"""What both sides send, and how both are measured, so that nothing else differs between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

# With "id" a map of 7 keys, 86 bytes as CBOR.
FIELDS: dict[str, Any] = {
    "user": "ada.lovelace",
    "item": "widget-042",
    "price": 19.99,
    "count": 3,
    "region": "eu-west-1",
    "ok": True,
}

WARM_UP = 50_000
"""Throughput is measured after so many messages, when the processes have started and the queues are full."""

COUNT = 300_000
LATENCY_WARM_UP = 1_000
LATENCY_COUNT = 3_000
LATENCY_RATE = 1_000
"""Messages a second. It is far below what either side can carry, so that no queue builds up."""


@dataclass(frozen=True)
class LatencyPercentiles:
    """Percentiles of the microseconds from the source to the sink."""

    p50: float
    p99: float


def latency(seconds: list[float]) -> LatencyPercentiles:
    ordered = sorted(seconds)
    return LatencyPercentiles(_percentile(ordered, 50) * 1e6, _percentile(ordered, 99) * 1e6)


def _percentile(ordered: list[float], percent: int) -> float:
    """By the nearest-rank method."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
