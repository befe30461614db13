"""The last values of a pipeline, for sparklines. May live here: keeping them; no picture."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

KEPT = 240
"""Values a stage: more than the widest sparkline shows."""


class History:
    """Takes the model's values in the order of their time; one that is earlier than the last begins it anew."""

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
        """Messages it was done with a second, oldest first."""
        return list(self._rates.get(stage, ()))
