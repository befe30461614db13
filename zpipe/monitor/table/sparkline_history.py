"""The last rates of each stage, for sparklines. Must not live here: how a sparkline is drawn (`glyphs`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

KEPT = 240
"""Rates kept of each stage: more than the widest sparkline shows."""


class RateHistory:
    """Takes the model's values in the order of their time. A value that is earlier than the last one starts it anew."""

    def __init__(self) -> None:
        self._rates: dict[str, deque[float]] = {}
        self._at = 0.0

    def add(self, value: dict[str, Any]) -> None:
        if value["at"] < self._at:
            self._rates.clear()
        self._at = value["at"]
        for name, stage in value["stages"].items():
            self._rates.setdefault(name, deque(maxlen=KEPT)).append(stage["rate_out"] or 0.0)

    def rates(self, stage: str) -> Sequence[float]:
        """Messages that the stage finished in a second, oldest first."""
        return list(self._rates.get(stage, ()))
