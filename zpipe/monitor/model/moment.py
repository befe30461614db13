"""Times since the epoch, as others say them. May live here: which of them can be; pure."""

from __future__ import annotations

LATEST_S = 253_402_300_800.0
"""The year 10000: beyond it a time has no date."""


def possible(at: float) -> bool:
    """Nothing else is: NaN, infinity, or before the epoch."""
    return 0.0 <= at < LATEST_S
