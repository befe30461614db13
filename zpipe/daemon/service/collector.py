"""Python's garbage collector as a process full of payloads needs it. May live here: its settings."""

from __future__ import annotations

import gc

THRESHOLDS = (10_000, 20, 20)
"""Payloads are many small containers without cycles: Python's first threshold of 700 has the collector run for nothing."""


def tune() -> None:
    """Once everything is loaded: what is there now stays, and collections need not look at it."""
    gc.set_threshold(*THRESHOLDS)
    gc.freeze()
