"""The CPU that an instance uses and needs, by its own process and by its workers. Must not live here: what follows from it."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress

NS = 1e9


def cpu_figures(worker_pids: Collection[int]) -> dict[str, float]:
    """`cpu_s`, used so far, and `cpu_wait_s`, for which threads were ready to run and had no core. Nothing where the kernel does
    not say: it counts both for each thread in /proc/PID/task/TID/schedstat.

    Calls that wait for a service and calls that wait for a core look alike without the second figure.
    """
    own = list(_threads(os.getpid()))
    if not own:
        return {}
    workers = [times for pid in worker_pids for times in _threads(pid)]
    # For its own process time.process_time() counts ended threads, too. A worker has few threads, which live as long as it does.
    used = time.process_time() + sum(used for used, _ in workers) / NS
    return {"cpu_s": used, "cpu_wait_s": sum(waited for _, waited in (*own, *workers)) / NS}


def _threads(pid: int) -> Iterator[tuple[int, int]]:
    """Nanoseconds that each thread of a process has run, and has waited for a core; nothing if that cannot be read."""
    folder = f"/proc/{pid}/task"
    with suppress(OSError, ValueError, IndexError):
        for thread in os.listdir(folder):
            with suppress(FileNotFoundError, ProcessLookupError), open(f"{folder}/{thread}/schedstat", "rb") as file:
                used, waited = file.read().split()[:2]
                yield int(used), int(waited)
