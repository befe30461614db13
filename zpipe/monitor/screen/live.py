"""The live screen of a running pipeline: reads snapshots, draws, and handles keys in turn. Must not live here: what is drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from zpipe.config import PipelineConfig
from zpipe.monitor.model.events import Events
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.screen.controls import Controls
from zpipe.monitor.screen.screen import Shown, clock, screen
from zpipe.monitor.screen.terminal import Terminal
from zpipe.monitor.snapshot_feed import READ_INTERVAL_S, SnapshotFeed, SnapshotListener, due_at, now_s, read
from zpipe.monitor.table.pipeline_status import RateHistory
from zpipe.monitor.table.rows import ordered

STARTUP_READ_INTERVAL_S = 0.05
"""Between two readings while instances are still to be heard of for the first time, for STARTUP_S."""
STARTUP_S = 3.0
SAID_S = 5.0
"""The answer to a key is shown in place of the keys for this long."""


Order = Callable[[str, str], str]
"""Takes pause or resume and a stage, or drain and "". Gives what was done, or why not, in words. Blocks for a moment."""


def show(
    feed: SnapshotFeed,
    model: PipelineModel,
    config: PipelineConfig,
    interval_s: float,
    order: Order,
    searched: Callable[[], str],
    heard: SnapshotListener,
    give_up_s: float = float("inf"),
) -> bool:
    """Draws the status in place at each interval and after each key, until q or until every instance has stopped. False: none
    was heard of for `give_up_s`. `searched` says where instances are looked for. Blocks."""
    events, history = Events(), RateHistory()

    def note(snapshot: dict[str, object], at: float) -> None:
        events.add(snapshot, at)
        heard(snapshot, at)

    with Terminal() as terminal:
        controls = Controls(keys=terminal.has_keys)
        began = said_at = time.monotonic()
        read_at = draw_at = began
        over = False
        while not controls.over:
            now = time.monotonic()
            if now >= min(read_at, draw_at):
                missing = len(model.missing)
                read(feed, model, 0.0, note)
                starting = bool(model.missing) and now - began < STARTUP_S
                read_at = now + (STARTUP_READ_INTERVAL_S if starting else READ_INTERVAL_S)
                # Each that is heard of for the first time is shown at once; the last one completes the screen.
                draw_at = now if len(model.missing) < missing else draw_at
            if now >= draw_at:
                draw_at = due_at(now, interval_s)
                value = model.as_json(now_s())
                events.note_silence(value)
                history.add(value)
                over = model.over
            if now - said_at > SAID_S and controls.message:
                controls.message = ""
            size = terminal.size
            shown = Shown(value, history, events.recent, clock(value["at"]), _waits(value, model, config, searched))
            terminal.draw(screen(shown, controls, size, terminal.glyphs), size)
            if over or (not model.heard and now - began > give_up_s):
                break
            for key in terminal.keys(min(read_at, draw_at) - time.monotonic()):
                said_at = time.monotonic()
                command = controls.press(key, ordered(value, controls.order))
                if command is not None:
                    controls.message = order(command.what, command.stage)
    return model.heard or controls.over


def _waits(value: dict[str, Any], model: PipelineModel, config: PipelineConfig, searched: Callable[[], str]) -> str:
    """What is waited for while nothing was heard of."""
    if model.heard:
        return ""
    if any(stage["unheard"] for stage in value["stages"].values()):
        return f"Listening for pipeline {config.name!r} ({searched()})"
    return f"Waiting for pipeline {config.name!r} to start: no instance is heard of ({searched()})"
