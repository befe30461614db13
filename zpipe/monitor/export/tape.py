"""A recording as a pipeline that can be moved through its time: the model at any moment of it. Must not live here: reading the
file (`recording`), and showing it."""

from __future__ import annotations

from typing import Any

from zpipe.config import PipelineConfig
from zpipe.monitor.export.recording import WINDOW_INTERVALS, Recording
from zpipe.monitor.model.events import Events
from zpipe.monitor.model.history import History
from zpipe.monitor.model.pipeline import PipelineModel


class Tape:
    """The model of a recording at `at`, which can be moved both ways."""

    def __init__(self, recording: Recording, config: PipelineConfig) -> None:
        self.recording = recording
        self._config = config
        self.at = float("-inf")
        self.move(recording.began)

    def move(self, at: float) -> None:
        """Moves to that time, within the recording. From far away, what is shown is built anew."""
        recording = self.recording
        at = min(max(at, recording.began), recording.ended)
        near = 0.0 <= at - self.at < WINDOW_INTERVALS * recording.interval_s
        if near:
            snapshots = recording.between(self.at, at)
        else:
            self._model = PipelineModel(self._config, recording.began)
            self.events, self.history = Events(), History()
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
