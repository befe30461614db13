"""What `zpipe run` and `zpipe drain` show while they drain: who still holds what, what is in the way, and the time left. Must
not live here: anything of rich, which `zpipe drain --json` does not import."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from zpipe.config import PipelineConfig
from zpipe.core.lifecycle import State
from zpipe.monitor.formatting import visible

LINE_S = 2.0
REDRAW_S = 0.25
REPEAT_S = 60.0
"""A wait in which nothing changes is printed once, and then this often."""

Snapshots = dict[tuple[str, int], dict[str, Any]]


@dataclass(frozen=True)
class Holding:
    """One instance that has not stopped. `held`: messages; `left_s`: seconds they may take, None if unknown; `why`: in words,
    what it waits for."""

    name: str
    state: str
    held: int
    left_s: float | None
    why: str

    def __str__(self) -> str:
        return visible(f"{self.name} {self.state} holds {self.held}" + f" ({self.why})" * bool(self.why))


def holdings(config: PipelineConfig, last: Snapshots) -> list[Holding]:
    """The instances that have not stopped, from the head on."""
    return [
        _holding(f"{stage}.{instance}", snapshot)
        for stage in config.stages
        for (name, instance), snapshot in sorted(last.items())
        if name == stage and snapshot["state"] != State.STOPPED.value
    ]


def _holding(name: str, snapshot: dict[str, Any]) -> Holding:
    held = snapshot["queued"] + snapshot["in_process"]
    held += sum(link["in_flight"] + link["unsent"] for link in snapshot["links"])
    rate = snapshot.get("rate_out", 0.0)
    left_s = held / rate if rate > 0 else (None if held else 0.0)
    return Holding(name, snapshot["state"], held, left_s, _why(snapshot, held))


def _why(snapshot: dict[str, Any], held: int) -> str:
    if reason := snapshot.get("stopped_by"):
        return f"takes no more: {reason}"
    if reason := snapshot.get("held_by"):
        return f"is held up: {reason}"
    if snapshot.get("paused"):
        return "paused: zpipe resume"
    if retrying := snapshot.get("retrying"):
        return f"{retrying} of them are tried again"
    if not held and snapshot.get("waiting_for"):
        return f"waits for {', '.join(snapshot['waiting_for'])}"
    return ""


def drain_text(rows: Sequence[Holding], absent: Mapping[str, str] | None = None) -> str:
    """One line: who holds what, who is absent and why, and how long it may take in all (the slowest instance decides)."""
    absent = absent or {}
    rows = [row for row in rows if row.name not in absent]  # That was a life that is over.
    if not rows and not absent:
        return "everything has stopped"
    parts = [*map(str, rows), *(visible(f"{name} {why}") for name, why in absent.items())]
    return f"{', '.join(parts)}; {_estimate(rows, certain=not absent)}"


def _estimate(rows: Sequence[Holding], certain: bool = True) -> str:
    known = [row.left_s for row in rows if row.left_s is not None]
    return f"about {max(known):.0f} s left" if certain and known and len(known) == len(rows) else "time left unknown"


def drain_block(rows: Sequence[Holding], width: int, height: int) -> list[str]:
    """The same as lines of at most `width` characters, one for each instance and the time left below them, so few that a terminal
    of that height shows them all: only then do they stand where they are counted to stand, and can be written over."""
    lines = list(map(str, rows))
    room = max(height - 2, 1)  # The estimate has a line too, and so has the cursor.
    if len(lines) > room:
        lines[room - 1 :] = [f"and {len(lines) - room + 1} more"]
    lines.append(_estimate(rows) if rows else "everything has stopped")
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]


class DrainLines:
    """Which lines are worth printing: a new one every `least_s`, and one that repeats the last only after REPEAT_S."""

    def __init__(self, least_s: float) -> None:
        self._least_s = least_s
        self._last_printed: tuple[object, ...] = ()
        self._printed_at = float("-inf")

    def line(self, rows: Sequence[Holding], absent: Mapping[str, str], now: float) -> str | None:
        """The line that is due now, if there is one. What is in the way may be worded differently each time (an address, a
        number), so the wait counts as the same one as long as every instance holds the same."""
        waiting = (*((row.name, row.state, row.held, bool(row.why)) for row in rows), *absent.items())
        if now < self._printed_at + (REPEAT_S if waiting == self._last_printed else self._least_s):
            return None
        self._last_printed, self._printed_at = waiting, now
        return drain_text(rows, absent)


class DrainProgress:
    """In a terminal a line for each instance, rewritten in place; elsewhere a line every LINE_S seconds if something changes."""

    def __init__(self, config: PipelineConfig, last: Snapshots, stream: TextIO) -> None:
        self._config = config
        self._last = last
        self._stream = stream
        self._in_place = stream.isatty()
        self._draw_at = 0.0
        self._drawn = 0
        self._lines = DrainLines(LINE_S)

    def turn(self) -> None:
        now = time.monotonic()
        rows = holdings(self._config, self._last)
        if not self._in_place:
            text = self._lines.line(rows, {}, now)
            if text is not None:
                self._write(f"{text}\n")
        elif now >= self._draw_at:
            self._draw_at = now + REDRAW_S
            width, height = os.get_terminal_size(self._stream.fileno())
            block = drain_block(rows, width - 1, height)
            self._write(self._erasure() + "".join(f"{line}\n" for line in block))
            self._drawn = len(block)

    def _erasure(self) -> str:
        """What removes the lines that were drawn last, and leaves the cursor where they began."""
        return f"\r\x1b[{self._drawn}A\x1b[J" if self._drawn else ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def close(self) -> None:
        self._write(self._erasure())
