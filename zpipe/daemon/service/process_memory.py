"""The memory of a process: how much it uses, and Python's garbage collector as a process full of payloads needs it."""

from __future__ import annotations

import gc
import os

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
THRESHOLDS = (10_000, 20, 20)
"""Payloads are many small containers without cycles: Python's first threshold of 700 has the collector run for nothing."""
_OWN_STATM = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
"""Kept open, so that a snapshot can be taken when there are no file descriptors left."""


def own_rss_bytes() -> int:
    """Resident, of this process."""
    return _rss_bytes(os.pread(_OWN_STATM, 100, 0))


def rss_bytes(pid: int) -> int:
    """Resident, of another process. Raises OSError if it is gone."""
    with open(f"/proc/{pid}/statm", "rb") as statm:
        return _rss_bytes(statm.read())


def _rss_bytes(statm: bytes) -> int:
    return int(statm.split()[1]) * PAGE_BYTES


def tune_garbage_collector() -> None:
    """To be called once everything is loaded. What is there now stays, so collections need not look at it."""
    gc.set_threshold(*THRESHOLDS)
    gc.freeze()
