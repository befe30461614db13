"""The live screen of a running pipeline: reads snapshots, draws, and handles keys in turn. Must not live here: what is drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from zpipe.config import PipelineConfig
from zpipe.errors import ZpipeError
from zpipe.monitor.model.events import Events
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.screen.controls import Command, Controls
from zpipe.monitor.screen.screen import Shown, clock, order_of, screen
from zpipe.monitor.screen.terminal import Terminal
from zpipe.monitor.snapshot_feed import READ_INTERVAL_S, SnapshotFeed, SnapshotListener, due_at, now_s, read
from zpipe.monitor.table.sparkline_history import RateHistory

STARTUP_READ_INTERVAL_S = 0.05
"""Between two readings while instances are still to be heard of for the first time, for STARTUP_S."""
STARTUP_S = 3.0


SAID_S = 5.0
"""The answer to a key is shown in place of the keys for this long."""


class Operator(Protocol):
    """Carries out what the user asks for on the screen."""

    def order(self, what: str, stage: str) -> str:
        """Pauses or resumes a stage, or drains all (stage ""). Returns what was done, in words. Blocks. Raises ZpipeError."""

    def silence(self) -> str:
        """Where instances were looked for, in words."""


def show(
    feed: SnapshotFeed,
    model: PipelineModel,
    config: PipelineConfig,
    interval_s: float,
    operator: Operator,
    heard: SnapshotListener,
    give_up_s: float = float("inf"),
    make: Callable[[], Terminal] = Terminal,
) -> bool:
    """Draws the status in place at each interval and after each key, until q or until every instance has stopped. False: none
    was heard of for `give_up_s`. Blocks."""
    events, history, controls = Events(), RateHistory(), Controls()

    def note(snapshot: dict[str, object], at: float) -> None:
        events.add(snapshot, at)
        heard(snapshot, at)

    with make() as terminal:
        controls.keys = terminal.has_keys
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
            shown = Shown(value, history, events.recent, clock(value["at"]), _waits(value, model, config, operator))
            terminal.draw(screen(shown, controls, size, terminal.glyphs), size)
            if over or (not model.heard and now - began > give_up_s):
                break
            for key in terminal.keys(min(read_at, draw_at) - time.monotonic()):
                said_at = time.monotonic()
                command = controls.press(key, order_of(value, controls))
                if command is not None:
                    controls.message = _order(operator, command)
    return model.heard or controls.over


def _order(operator: Operator, command: Command) -> str:
    try:
        return operator.order(command.what, command.stage)
    except ZpipeError as error:
        return str(error)


def _waits(value: dict[str, Any], model: PipelineModel, config: PipelineConfig, operator: Operator) -> str:
    """What is waited for while nothing was heard of."""
    if model.heard:
        return ""
    if any(stage["unheard"] for stage in value["stages"].values()):
        return f"Listening for pipeline {config.name!r} ({operator.silence()})"
    return f"Waiting for pipeline {config.name!r} to start: no instance is heard of ({operator.silence()})"
