"""Following a pipeline: from the snapshots that arrive to the values that are shown, one for each interval. Must not live here:
sockets (the command brings a SnapshotFeed), and how a value is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from zpipe.config import InstanceKey
from zpipe.core.intervals import following
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.table.columns import plain
from zpipe.monitor.table.glyphs import UNICODE, Glyphs
from zpipe.monitor.table.pipeline_status import status

READ_INTERVAL_S = 0.5
"""Snapshots are read in lots, since each reading also looks for new instances, which costs more than the snapshots do."""
LATE = 0.2
"""Of an interval: by then the snapshots of all instances have arrived."""
PLAIN_WIDTH = 160
"""Columns where nobody says how many there are: enough for the longest names."""

SnapshotListener = Callable[[dict[str, Any], float], None]
"""Takes a snapshot, and the time when it arrived."""


class SnapshotFeed(Protocol):
    def poll(self, timeout_s: float) -> list[dict[str, Any]]:
        """Waits at most so long for something to arrive, and returns the snapshots that came, oldest first."""

    @property
    def refused(self) -> Mapping[InstanceKey, str]:
        """Why instances cannot be heard of, where that is known."""


_EPOCH = time.time() - time.monotonic()


def now_s() -> float:
    """Seconds since the epoch, by the clock as it was at the start. So an instance does not fall silent when the clock is set."""
    return _EPOCH + time.monotonic()


def due_at(now: float, interval_s: float) -> float:
    """When to show the next value: soon after the instances of this machine take their snapshots, when all have arrived."""
    return following(now - LATE * interval_s, interval_s) + LATE * interval_s


def gather(feed: SnapshotFeed, model: PipelineModel, timeout_s: float, listener: SnapshotListener) -> bool:
    """Reads until every instance of the config and every further one was heard, at most so long. Blocks. Whether any was."""
    deadline = time.monotonic() + timeout_s
    while model.awaited and (left_s := deadline - time.monotonic()) > 0:
        read(feed, model, left_s, listener)
    return model.heard


def follow(
    feed: SnapshotFeed, model: PipelineModel, interval_s: float, listener: SnapshotListener
) -> Iterator[dict[str, Any]]:
    """The model's value now and at each interval, until every instance has stopped. Blocks between."""
    while True:
        yield model.as_json(now_s())
        if model.over:
            return
        at = due_at(time.monotonic(), interval_s)
        while (left_s := at - time.monotonic()) > 0:
            time.sleep(min(READ_INTERVAL_S, left_s))
            read(feed, model, 0.0, listener)


def read(feed: SnapshotFeed, model: PipelineModel, timeout_s: float, listener: SnapshotListener) -> None:
    """Reads what arrives, for at most READ_INTERVAL_S, so that instances that were started meanwhile are found."""
    model.note_refused(feed.refused)
    for snapshot in feed.poll(min(timeout_s, READ_INTERVAL_S)):
        now = now_s()
        if model.add(snapshot, now):
            listener(snapshot, now)


def as_text(value: dict[str, Any], width: int = PLAIN_WIDTH, glyphs: Glyphs = UNICODE) -> str:
    """The status without colours, for files and pipes."""
    return "\n".join(plain(line) for line in status(value, width, glyphs))
