"""What both sides carry and how both sides count, so that they differ in nothing else."""

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
"""Throughput is taken from the message after these: processes have started and queues have filled."""

COUNT = 300_000
LATENCY_WARM_UP = 1_000
LATENCY_COUNT = 3_000
LATENCY_RATE = 1_000
"""Messages a second: far below what either side can carry, so no queue forms."""


@dataclass(frozen=True)
class Latency:
    """Microseconds from the source to the sink."""

    p50: float
    p99: float


def latency(seconds: list[float]) -> Latency:
    ordered = sorted(seconds)
    return Latency(_percentile(ordered, 50) * 1e6, _percentile(ordered, 99) * 1e6)


def _percentile(ordered: list[float], percent: int) -> float:
    """The nearest rank."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
