"""Textual's own snapshot tests: the whole screen as a picture, at three sizes, of states that are the same at every run.

After a change that is meant: `pytest tests/monitor/screen/test_pictures.py --snapshot-update`, and look at the pictures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from screens import SIZES, STATES, letters
from textual.pilot import Pilot

from zpipe.monitor.model.history import History
from zpipe.monitor.screen.actions import Operator
from zpipe.monitor.screen.app import MonitorApp
from zpipe.monitor.screen.pane import Letters, Replay, Shown

Compare = Callable[..., bool]


class Still:
    """A source that does not change."""

    def __init__(self, shown: Shown) -> None:
        self.value: dict[str, Any] = shown.value
        self.history: History = shown.history
        self.events = shown.events
        self.waits, self.over = "", False
        self.replay = shown.replay

    def turn(self) -> tuple[float, bool]:
        return 3600.0, False


class Clerk:
    """An operator that notes what it is asked for. `problem`: it raises this."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def ask(self, what: str, targets: Any) -> str:
        self.asked.append((what, list(targets)))
        return f"{what} is done"

    def letters(self) -> Letters:
        return letters()

    def page(self, letter: str) -> str:
        return f"letter     {letter}\nreason     KeyError: 'customer'"

    def editable(self, letter: str) -> str:
        return "{}"

    def save(self, letter: str, text: str) -> str:
        return "saved"

    def replay(self, names: Any) -> str:
        self.asked.append(("replay", list(names)))
        return f"{len(names)} to be replayed"

    def drop(self, names: Any) -> str:
        self.asked.append(("drop", list(names)))
        return f"{len(names)} dropped"

    def tap(self, link: str) -> Any:
        raise AssertionError(link)


async def has_read_letters(pilot: Pilot[object]) -> None:
    """They are read on a thread, and keys may come before they are there."""
    await pilot.app.workers.wait_for_complete()


def app_of(shown: Shown, operator: Operator | None = None) -> MonitorApp:
    return MonitorApp(Still(shown), shown.config, operator or Clerk(), shown.glyphs)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", ["load", "idle", "down", "storm", "disk-full", "paused", "twenty"])
def test_the_pipeline(name: str, size: tuple[int, int], snap_compare: Compare) -> None:
    assert snap_compare(app_of(STATES[name]()), terminal_size=size)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_sixty_four_instances(size: tuple[int, int], snap_compare: Compare) -> None:
    assert snap_compare(app_of(STATES["many"]()), terminal_size=size, press=["down", "right", "enter"])


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_a_recording(size: tuple[int, int], snap_compare: Compare) -> None:
    shown = STATES["load"]()._replace(replay=Replay(42.0, 90.0, 2.0, True))
    assert snap_compare(app_of(shown), terminal_size=size)


@pytest.mark.parametrize("keys", ["2", "3", "4", "5 down enter", "6", "d", "question_mark"])
def test_the_views_and_what_opens_over_them(keys: str, snap_compare: Compare) -> None:
    app = app_of(STATES["load"]())
    assert snap_compare(app, terminal_size=(120, 40), press=keys.split(), run_before=has_read_letters)
