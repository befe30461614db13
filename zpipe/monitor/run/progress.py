"""What `zpipe run` shows while it runs: a bar with the time left in a terminal, a line now and then elsewhere. Must not live
here: child processes and sockets."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from zpipe.config import PipelineConfig
from zpipe.monitor.formatting import visible
from zpipe.monitor.model.pipeline import PipelineModel, source_progress
from zpipe.monitor.run.drain_progress import DrainLines, Snapshots, holdings
from zpipe.monitor.snapshot_feed import now_s
from zpipe.monitor.table.pipeline_status import status

REDRAW_S = 0.25
LINE_S = 5.0
SECOND_SIGNAL = "Ctrl-C again stops now: what is not finished is not acked, and the next run goes on from there"


def _of_all(sources: Iterable[dict[str, int | None]]) -> tuple[int, int | None]:
    """How many messages the sources have finished, and of how many; None until every source has said how many it has."""
    found = list(sources)
    totals = [one["total"] for one in found if one["total"] is not None]
    return sum(one["finished"] or 0 for one in found), sum(totals) if len(totals) == len(found) else None


class LiveProgress:
    """In a terminal: a bar and the table of stages, redrawn in place on stderr; log lines go above."""

    def __init__(self, config: PipelineConfig) -> None:
        self._heads = config.heads
        self._model = PipelineModel(config, now_s())
        self._bar = Progress(
            TextColumn(f"[bold]{config.name}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task("", total=None)
        self._redraw_at = 0.0
        self._below: list[str] = []
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()

    def line(self, text: str) -> None:
        self._live.console.print(Text(text), soft_wrap=True)

    def snapshot(self, snapshot: dict[str, Any]) -> None:
        self._model.add(snapshot, now_s())

    def draining(self, absent: Mapping[str, str]) -> None:
        """Only who is absent is added: the table already shows what each stage holds, and what is in its way."""
        self._below = [*(visible(f"{name} {why}") for name, why in absent.items()), f"Draining: {SECOND_SIGNAL}"]

    def turn(self) -> None:
        now = time.monotonic()
        if now < self._redraw_at:
            return
        self._redraw_at = now + REDRAW_S
        value = self._model.as_json(now_s())
        finished, total = _of_all(value["stages"][head]["progress"] for head in self._heads)
        self._bar.update(self._task, completed=finished, total=total)
        table = [
            Text.assemble(*line, no_wrap=True, overflow="crop") for line in status(value, self._live.console.width)
        ]
        below = [Text(text, "yellow", no_wrap=True, overflow="crop") for text in self._below]
        self._live.update(Group(self._bar, *table, *below), refresh=True)

    def close(self) -> None:
        self._live.stop()


class PlainProgress:
    """Not in a terminal: log lines as they come, and every LINE_S seconds how far it is, or while draining who holds what."""

    def __init__(self, config: PipelineConfig, quiet: bool = False) -> None:
        self._config = config
        self._last: Snapshots = {}
        self._before: dict[tuple[str, int], int] = {}
        self._quiet = quiet
        self._draining = False
        self._absent: Mapping[str, str] = {}
        self._drain_lines = DrainLines(LINE_S)
        self._began = time.monotonic()
        self._line_at = self._began + LINE_S

    def line(self, text: str) -> None:
        with suppress(OSError):  # Nobody reads, or the disk is full. A run does not fail for its log.
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def snapshot(self, snapshot: dict[str, Any]) -> None:
        key = snapshot["stage"], snapshot["instance"]
        self._last[key] = snapshot
        self._before.setdefault(key, snapshot.get("finished_before", 0))

    def draining(self, absent: Mapping[str, str]) -> None:
        if not self._draining:
            self._line_at = time.monotonic() + LINE_S  # A drain that ends soon needs no line.
        self._draining = True
        self._absent = absent

    def turn(self) -> None:
        now = time.monotonic()
        if now < self._line_at or self._quiet:
            return
        if self._draining:
            text = self._drain_lines.line(holdings(self._config, self._last), self._absent, now)
            if text is not None:
                self.line(f"event=run.draining {text}; {SECOND_SIGNAL}")
            return
        self._line_at = now + LINE_S
        heads = [[s for (name, _), s in self._last.items() if name == head] for head in self._config.heads]
        finished, total = _of_all(map(source_progress, heads))
        text = f"event=run.progress finished={finished}"
        if total:
            text += f" total={total} percent={100 * finished // total}"
            # What earlier runs have finished says nothing of how fast this one is.
            in_this_run = finished - sum(self._before.values())
            if in_this_run > 0:
                text += f" left_s={(now - self._began) * (total - finished) / in_this_run:.0f}"
        self.line(text)

    def close(self) -> None:
        pass
