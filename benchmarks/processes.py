"""Processes that are measured: their CPU time, their memory, their children. Does not belong here: what they run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, of all its threads, those that have ended too, to the nanosecond.

    It is the clock that clock_getcpuclockid(3) names: the scheduler's own sum, as in /proc/PID/task/*/schedstat, while
    utime and stime in /proc/PID/stat come in steps of 10 ms. 0 if there is no such process.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def rss_kib(pid: int) -> int:
    """Resident memory; 0 if there is no such process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def children() -> dict[int, list[int]]:
    """Of each process that has any, its children."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                after_name = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                found.setdefault(int(after_name[1]), []).append(int(name))
    return found


def with_descendants(pids: Iterable[int]) -> list[int]:
    of = children()
    found = list(pids)
    for pid in found:
        found += of.get(pid, [])
    return found


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = 60.0, poll_s: float = 0.005) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline_s:g} s: {what}")
        time.sleep(poll_s)


def end(process: subprocess.Popen[str], by: signal.Signals = signal.SIGTERM, grace_s: float = 10.0) -> None:
    """It is over after this, whatever it does."""
    if process.poll() is None:
        process.send_signal(by)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    if process.poll() is None:
        process.kill()
    process.wait()
