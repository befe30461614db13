"""Where the screen has its figures from: a pipeline that runs, or a recording. Must not live here: drawing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from zpipe.config import PipelineConfig
from zpipe.monitor.export.tape import Tape
from zpipe.monitor.model.events import Event, Events
from zpipe.monitor.model.history import History
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.screen.pane import Replay
from zpipe.monitor.snapshot_feed import READ_INTERVAL_S, SnapshotFeed, SnapshotListener, due_at, now_s, read

STARTUP_READ_INTERVAL_S = 0.05
"""Between two readings while instances are still to be heard of for the first time, for STARTUP_S."""
STARTUP_S = 3.0
SPEEDS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
PLAY_S = 0.25


class Source(Protocol):
    """`turn` takes in what is there and gives the seconds until the next turn, and whether there is something new to draw."""

    @property
    def value(self) -> dict[str, Any]: ...

    @property
    def history(self) -> History: ...

    @property
    def waits(self) -> str: ...

    @property
    def over(self) -> bool: ...

    @property
    def events(self) -> Sequence[Event]: ...

    @property
    def replay(self) -> Replay | None: ...

    def turn(self) -> tuple[float, bool]: ...


class LivePipeline:
    """Snapshots that arrive. `gave_up`: none was heard of for `give_up_s`; `searched` says where instances are looked for."""

    replay = None

    def __init__(
        self,
        feed: SnapshotFeed,
        model: PipelineModel,
        config: PipelineConfig,
        interval_s: float,
        searched: Callable[[], str],
        heard: SnapshotListener,
        give_up_s: float = float("inf"),
    ) -> None:
        self._feed, self._model, self._config, self._interval_s = feed, model, config, interval_s
        self._searched, self._heard, self._give_up_s = searched, heard, give_up_s
        self._events = Events()
        self.history = History()
        self._began = self._draw_at = time.monotonic()
        self.value = model.as_json(now_s())
        self.waits = ""
        self.over = False

    @property
    def events(self) -> Sequence[Event]:
        return self._events.recent

    @property
    def heard(self) -> bool:
        return self._model.heard

    def turn(self) -> tuple[float, bool]:
        now, model = time.monotonic(), self._model
        missing = len(model.missing)
        read(self._feed, model, 0.0, self._note)
        starting = bool(model.missing) and now - self._began < STARTUP_S
        # Each that is heard of for the first time is shown at once; the last one completes the screen.
        drawn = now >= self._draw_at or len(model.missing) < missing
        if drawn:
            self._draw_at = due_at(now, self._interval_s)
            self.value = model.as_json(now_s())
            self._events.note_silence(self.value)
            self.history.add(self.value)
            self.waits = self._waiting()
        self.over = model.over or (not model.heard and now - self._began > self._give_up_s)
        wait_s = STARTUP_READ_INTERVAL_S if starting else READ_INTERVAL_S
        return max(min(wait_s, self._draw_at - time.monotonic()), 0.01), drawn

    def _note(self, snapshot: dict[str, Any], at: float) -> None:
        self._events.add(snapshot, at)
        self._heard(snapshot, at)

    def _waiting(self) -> str:
        """What is waited for while nothing was heard of."""
        if self._model.heard:
            return ""
        if any(stage["unheard"] for stage in self.value["stages"].values()):
            return f"Listening for pipeline {self._config.name!r} ({self._searched()})"
        return f"Waiting for pipeline {self._config.name!r} to start: no instance is heard of ({self._searched()})"


class RecordedPipeline:
    """A recording that plays, stands still, and can be moved in."""

    over = False
    waits = ""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._played_at = time.monotonic()
        self._speed = 1.0
        self.playing = True
        self.value = tape.value

    @property
    def history(self) -> History:
        return self._tape.history

    @property
    def events(self) -> Sequence[Event]:
        return self._tape.events.recent

    @property
    def replay(self) -> Replay | None:
        recording = self._tape.recording
        length = recording.ended - recording.began
        return Replay(self._tape.at - recording.began, length, self._speed, self.playing)

    def turn(self) -> tuple[float, bool]:
        now = time.monotonic()
        if not self.playing:
            self._played_at = now
            return 3600.0, False
        self._move(self._tape.at + (now - self._played_at) * self._speed)
        self._played_at = now
        return PLAY_S, True

    def _move(self, at: float) -> None:
        self._tape.move(at)
        self.value = self._tape.value

    def step(self, intervals: float) -> None:
        self.playing = False
        self._move(self._tape.at + intervals * self._tape.recording.interval_s)

    def seek(self, part: float) -> None:
        """To that part of the recording, 0 to 1."""
        recording = self._tape.recording
        self.playing = False
        self._move(recording.began + part * (recording.ended - recording.began))

    def toggle(self) -> None:
        self.playing = not self.playing
        self._played_at = time.monotonic()

    def faster(self, steps: int) -> None:
        at = SPEEDS.index(self._speed) + steps
        self._speed = SPEEDS[min(max(at, 0), len(SPEEDS) - 1)]
