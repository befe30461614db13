"""Following a pipeline: from the snapshots that come to the values that are shown, one an interval.

May live here: when to read and when to show, without a screen (`live` has that). What is read comes from a Feed, which the
command brings; what is shown is the status'.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from zpipe.core.telemetry.stage_report import following
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.table.columns import plain
from zpipe.monitor.table.glyphs import UNICODE, Glyphs
from zpipe.monitor.table.pipeline_status import status

PACE_S = 0.5
"""Snapshots are read in lots: each reading also looks for new instances, which costs more than the snapshots do."""
LATE = 0.2
"""Of an interval."""
PLAIN_WIDTH = 160
"""Columns where nobody says how many there are: enough for the longest names."""

Heard = Callable[[dict[str, Any], float], None]
"""Takes a snapshot and the time when it was heard."""


class Feed(Protocol):
    def poll(self, timeout_s: float) -> list[dict[str, Any]]:
        """Waits at most so long for something, then gives the snapshots that came, oldest first."""


_EPOCH = time.time() - time.monotonic()


def now_s() -> float:
    """Seconds since the epoch by the clock as it was at the start: setting it meanwhile makes nobody silent."""
    return _EPOCH + time.monotonic()


def due_at(now: float, interval_s: float) -> float:
    """When to show next: soon after the instances of this machine take their snapshots, when all of them have come."""
    return following(now - LATE * interval_s, interval_s) + LATE * interval_s


def gather(feed: Feed, model: PipelineModel, timeout_s: float, heard: Heard | None = None) -> bool:
    """Reads until every instance of the config and every further one was heard of, at most so long. False: none was. Blocks."""
    deadline = time.monotonic() + timeout_s
    while model.awaited and (left_s := deadline - time.monotonic()) > 0:
        read(feed, model, left_s, heard)
    return model.heard


def follow(feed: Feed, model: PipelineModel, interval_s: float, heard: Heard | None = None) -> Iterator[dict[str, Any]]:
    """The model's value now and at each interval, until every instance has stopped. Blocks between."""
    while True:
        yield model.as_json(now_s())
        if model.over:
            return
        at = due_at(time.monotonic(), interval_s)
        while (left_s := at - time.monotonic()) > 0:
            time.sleep(min(PACE_S, left_s))
            read(feed, model, 0.0, heard)


def read(feed: Feed, model: PipelineModel, timeout_s: float, heard: Heard | None = None) -> None:
    """Takes what comes; not longer than PACE_S, so that instances started meanwhile are found."""
    for snapshot in feed.poll(min(timeout_s, PACE_S)):
        now = now_s()
        if model.add(snapshot, now) and heard is not None:
            heard(snapshot, now)


def as_text(value: dict[str, Any], width: int = PLAIN_WIDTH, glyphs: Glyphs = UNICODE) -> str:
    """The status without colours, for files and pipes."""
    return "\n".join(plain(line) for line in status(value, width, glyphs))
