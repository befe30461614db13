"""A recording on the screen, or one time of it: playing, and moving back and forth. Must not live here: reading the file."""

from __future__ import annotations

import time
from typing import Any

from zpipe.config import PipelineConfig
from zpipe.monitor.export.recording import WINDOW_INTERVALS, Recording
from zpipe.monitor.model.events import Events
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.screen.controls import Controls
from zpipe.monitor.screen.screen import Shown, clock, screen
from zpipe.monitor.screen.terminal import Terminal
from zpipe.monitor.table.pipeline_status import RateHistory
from zpipe.monitor.table.rows import ordered

REDRAW_S = 0.25


class Tape:
    """The model of a recording at `at`, which can be moved both ways."""

    def __init__(self, recording: Recording, config: PipelineConfig) -> None:
        self._recording = recording
        self._config = config
        self.at = float("-inf")
        self.move(recording.began)

    def move(self, at: float) -> None:
        """Moves to that time, within the recording. From far away, what is shown is built anew."""
        recording = self._recording
        at = min(max(at, recording.began), recording.ended)
        near = 0.0 <= at - self.at < WINDOW_INTERVALS * recording.interval_s
        if near:
            snapshots = recording.between(self.at, at)
        else:
            self._model = PipelineModel(self._config, recording.began)
            self.events, self.history = Events(), RateHistory()
            snapshots = recording.until(at)
        self.at = at
        draw_at: float | None = None
        for heard_at, snapshot in snapshots:
            if draw_at is not None and heard_at >= draw_at:
                self.history.add(self._model.as_json(draw_at))
            if draw_at is None or heard_at >= draw_at:
                draw_at = heard_at + recording.interval_s
            if self._model.add(snapshot, heard_at):
                self.events.add(snapshot, heard_at)
        self.events.note_silence(self.value)

    @property
    def value(self) -> dict[str, Any]:
        return self._model.as_json(self.at)


def show(tape: Tape, recording: Recording) -> None:
    """Plays it in the terminal until q. At the end it stands still. Blocks."""
    with Terminal() as terminal:
        controls = Controls(replay=True, keys=terminal.has_keys)
        played_at = time.monotonic()
        while not controls.over:
            now = time.monotonic()
            if controls.playing:
                tape.move(tape.at + (now - played_at) * controls.speed)
            played_at = now
            size, value = terminal.size, tape.value
            shown = Shown(value, tape.history, tape.events.recent, _time(tape, recording, controls))
            terminal.draw(screen(shown, controls, size, terminal.glyphs), size)
            for key in terminal.keys(REDRAW_S if controls.playing else 3600.0):
                command = controls.press(key, ordered(value, controls.order))
                if command is not None and command.what == "step":
                    tape.move(tape.at + command.amount * recording.interval_s)
                elif command is not None and command.what == "seek":
                    tape.move(recording.ended if command.amount else recording.began)
            if not controls.playing:
                played_at = time.monotonic()


def _time(tape: Tape, recording: Recording, controls: Controls) -> str:
    how = f"playing x{controls.speed:g}" if controls.playing else "stopped"
    where = f"+{tape.at - recording.began:.1f} s of {recording.ended - recording.began:.1f} s"
    return f"recorded {clock(tape.at)}, {where}, {how}"
