"""What `zpipe drain` shows while it waits: what each stage still holds, and the time that may take.

May live here: turning snapshots into those lines. It knows no socket.
"""

from __future__ import annotations

import time
from typing import Any, TextIO

from zpipe.config import PipelineConfig
from zpipe.core.lifecycle import State

LINE_S = 2.0
REDRAW_S = 0.25

Snapshots = dict[tuple[str, int], dict[str, Any]]


def holdings(config: PipelineConfig, last: Snapshots) -> list[tuple[str, str, int, float | None]]:
    """(instance, state, messages it still holds, seconds they may take or None), from the head on, those not stopped."""
    rows = []
    for stage in config.stages:
        for (name, instance), snapshot in sorted(last.items()):
            if name != stage or snapshot["state"] == State.STOPPED.value:
                continue
            held = snapshot["queued"] + snapshot["in_process"]
            held += sum(link["in_flight"] + link["unsent"] for link in snapshot["links"])
            rate = snapshot.get("rate_out", 0.0)  # one that does not say: nobody knows how long it takes
            state = "paused" if snapshot.get("paused") else snapshot["state"]
            if snapshot.get("stopped_by"):
                state = f"({snapshot['stopped_by']})"
            rows.append((f"{name}.{instance}", state, held, held / rate if rate > 0 else (0.0 if not held else None)))
    return rows


def as_text(rows: list[tuple[str, str, int, float | None]]) -> str:
    """One line: who holds what, and how long that may take in all (the slowest decides)."""
    if not rows:
        return "everything has stopped"
    parts = ", ".join(f"{name} {state} holds {held}" for name, state, held, _ in rows)
    times = [left for *_, left in rows]
    known = [left for left in times if left is not None]
    estimate = f"about {max(known):.0f} s left" if len(known) == len(times) else "time left unknown"
    return f"{parts}; {estimate}"


class DrainProgress:
    """In a terminal one line, rewritten in place; elsewhere a line every LINE_S seconds."""

    def __init__(self, config: PipelineConfig, last: Snapshots, stream: TextIO) -> None:
        self._config = config
        self._last = last
        self._stream = stream
        self._in_place = stream.isatty()
        self._draw_at = 0.0

    def turn(self) -> None:
        now = time.monotonic()
        if now < self._draw_at:
            return
        self._draw_at = now + (REDRAW_S if self._in_place else LINE_S)
        text = as_text(holdings(self._config, self._last))
        self._stream.write(f"\r\x1b[K{text}" if self._in_place else f"{text}\n")
        self._stream.flush()

    def close(self) -> None:
        if self._in_place:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
