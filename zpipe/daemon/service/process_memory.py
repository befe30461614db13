"""The memory of a process: how much it uses; and the garbage collector and the C library, tuned for a process full of payloads.
Must not live here: limits on memory, and what follows when one is passed."""

from __future__ import annotations

import gc
import os
from functools import cache

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
THRESHOLDS = (10_000, 20, 20)
"""Payloads are many small containers without cycles: Python's first threshold of 700 has the collector run for nothing."""
LARGE_MESSAGE_BYTES = 16 * 1024
"""From this size of messages on `keep_freed_memory` pays: a task of such messages takes and frees a megabyte."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_KEPT_BYTES, _APART_BYTES = 8 << 20, 4 << 20


def own_rss_bytes() -> int:
    """Resident, of this process."""
    return _rss_bytes(os.pread(_own_statm(), 100, 0))


@cache
def _own_statm() -> int:
    """Kept open, so that a snapshot can be taken when there are no file descriptors left. Not at the import, which may be in a
    process that this one was forked from."""
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


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


@cache
def keep_freed_memory() -> None:
    """Has the C library keep up to 8 MiB that a thread has freed, and take blocks of up to 4 MiB from there.

    By itself it gives the memory of large messages back to the kernel after each section. To get it again, page by page and
    cleared, took a third of the CPU time of messages of 64 kB (measured). A C library without mallopt goes on as it does.
    """
    try:
        import ctypes  # 0.3 MiB, which a process of small messages does without

        mallopt = ctypes.CDLL(None).mallopt
    except (ImportError, OSError, AttributeError, MemoryError):
        return
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_MMAP_THRESHOLD, _APART_BYTES)
