"""Following a pipeline: from the snapshots that come to the values that are shown, one an interval.

May live here: when to read and when to show. What is read comes from a Feed, which the command brings; what is shown is
the view's.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from zpipe.monitor.model import Model

PACE_S = 0.5
"""Snapshots are read in lots: each reading also looks for new instances, which costs more than the snapshots do."""
PLAIN_WIDTH = 160
"""Columns where nobody says how many there are: enough for the longest names."""


class Feed(Protocol):
    def poll(self, timeout_s: float) -> list[dict[str, Any]]:
        """Waits at most so long for something, then gives the snapshots that came, oldest first."""


_EPOCH = time.time() - time.monotonic()


def now_s() -> float:
    """Seconds since the epoch by the clock as it was at the start: setting it meanwhile makes nobody silent."""
    return _EPOCH + time.monotonic()


def gather(feed: Feed, model: Model, timeout_s: float) -> bool:
    """Reads until every instance of the config was heard of, at most so long. False: none was. Blocks."""
    deadline = time.monotonic() + timeout_s
    while model.missing and (left_s := deadline - time.monotonic()) > 0:
        _read(feed, model, left_s)
    return model.heard


def follow(feed: Feed, model: Model, interval_s: float) -> Iterator[dict[str, Any]]:
    """The model's value now and at each interval, until every instance has stopped. Blocks between."""
    at = time.monotonic()
    while True:
        yield model.as_json(now_s())
        if model.over:
            return
        at = max(at + interval_s, time.monotonic())
        while (left_s := at - time.monotonic()) > 0:
            _read(feed, model, left_s)
            time.sleep(max(0.0, min(PACE_S, at - time.monotonic())))


def _read(feed: Feed, model: Model, timeout_s: float) -> None:
    # Not longer than this at once, so that instances started meanwhile are found.
    for snapshot in feed.poll(min(timeout_s, PACE_S)):
        model.add(snapshot, now_s())


def as_text(value: dict[str, Any]) -> str:
    """The status without colours, for files and pipes."""
    from rich.console import Console

    from zpipe.monitor.view import status_table

    # Neither the terminal nor the environment may bring colours in here.
    console = Console(file=io.StringIO(), width=PLAIN_WIDTH, color_system=None, force_terminal=False, no_color=True)
    with console.capture() as capture:
        console.print(status_table(value))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def show(values: Iterable[dict[str, Any]]) -> None:
    """The status in the terminal, redrawn in place for each value. Blocks until there are no more."""
    from rich.console import Console
    from rich.live import Live

    from zpipe.monitor.view import status_table

    # No refreshing by itself: drawing what has not changed would be most of the cost.
    with Live(console=Console(), auto_refresh=False, vertical_overflow="crop") as live:
        for value in values:
            live.update(status_table(value), refresh=True)
