"""A token bucket: when the next call may start at a given rate. Must not live here: a limit on the calls under way."""

from __future__ import annotations

BURST_S = 0.01
"""A loop that wakes late catches up on this much: without it every late wake-up would be lost for good. At 100 calls/s it
is one call, so calls are spaced evenly; in any window of T seconds at most `rate * (T + BURST_S) + 1` start."""


class TokenBucket:
    """The generic cell rate algorithm (ITU-T I.371, annex A): a token bucket kept as one time, that of the next token.

    per_s  calls a second, above 0
    """

    def __init__(self, per_s: float) -> None:
        self._spacing_s = 1.0 / per_s
        self._due_at = float("-inf")

    def next_at(self) -> float:
        """From when on a call may start."""
        return self._due_at - BURST_S

    def started(self, now: float) -> None:
        self._due_at = max(now, self._due_at) + self._spacing_s
