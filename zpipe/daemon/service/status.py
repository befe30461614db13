"""What an instance is doing: a line for `systemctl status`, and what a snapshot says of the process.

Both are made here from figures. Must not live here: taking a decision on any of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

from zpipe import __version__
from zpipe.core.lifecycle import State
from zpipe.core.stage import Stage
from zpipe.daemon.service.process_cpu import cpu_figures
from zpipe.daemon.service.process_memory import own_rss_bytes
from zpipe.daemon.service.sdnotify import ServiceStatus
from zpipe.daemon.storage.last_life import LastLife


@cache
def _epoch() -> float:
    """Rates are taken between snapshots, so their times must not jump when somebody sets the clock. Not at the import, which may
    be in a process that this one was forked from, long before."""
    return time.time() - time.monotonic()


def status_of(stage: Stage, held_by: str) -> ServiceStatus:
    """The status line, and `progress`, which moves with everything that is finished here or acked below, but not with what is
    handed back."""
    status = stage.status()
    parts = [status.state.value + (" (paused)" if status.paused else "")]
    if status.stopped_by:
        parts.append(f"takes no more: {status.stopped_by}")
    if status.finished is None:
        parts.append(f"depth {status.queued}, in process {status.in_process}")
    if status.sends:
        parts.append(f"unsent {status.unsent}, unacked {status.in_flight}")
    parts.append(f"done {status.done}, {status.rate_out:.0f}/s")
    if status.dead_stored:
        parts.append(f"dead letters stored {status.dead_stored}")
    if held_by:
        parts.append(f"held: {held_by}")
    if status.leaving or status.draining:
        waits = [] if status.leaving else status.waiting_for
        parts.append("shutting down" + (f", waits for {', '.join(waits)}" if waits else ""))
    # What a closing source still takes in is no progress towards its end.
    progress = (status.acked, status.finished) if status.finished is not None else (status.done, status.acked)
    start_waits = status.state is State.STARTING and bool(held_by)
    return ServiceStatus(", ".join(parts), progress, status.shutting_down, start_waits)


def process_figures(
    run: str,
    total: int | None,
    finished_before: int,
    held_by: str,
    replay_due: bool,
    read: tuple[int, float] | None,
    last_life: LastLife,
    worker_deaths: Mapping[str, int],
    worker_pids: Collection[int],
    refusals: Sequence[Mapping[str, Any]],
    plugin_metrics: Mapping[str, Any],
) -> dict[str, Any]:
    """What only the process knows.

    run              the `zpipe run` that it belongs to, "" outside one
    total            messages that its source had left at the start;  finished_before: messages finished in earlier lives
    held_by          what it waits for outside the pipeline
    replay_due       dead letters may be marked for replay that have not come yet
    read             (a head) messages that its source has yielded, and the seconds it took for them, without waits for room
    last_life        how the life before ended
    worker_deaths    how many worker processes have died, by what ended them;  worker_pids: those that live
    refusals         peers that were refused lately, or that refused this instance
    plugin_metrics   what the plugin counts and measures itself
    """
    return {
        "at": _epoch() + time.monotonic(),
        "version": f"zpipe {__version__}",
        "pid": os.getpid(),
        "rss_bytes": own_rss_bytes(),
        **cpu_figures(worker_pids),
        "run": run,
        "restarts": dict(last_life.restarts),
        "last_crash": last_life.as_json(),
        "worker_restarts": dict(worker_deaths),
        "total": total,
        "finished_before": finished_before,
        "held_by": held_by,
        "replay_due": replay_due,
        "read_messages": read[0] if read else None,
        "read_s": read[1] if read else None,
        "refusals": list(refusals),
        **plugin_metrics,
    }
