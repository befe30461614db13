"""`schedule` on a clock of the test, which passes only while the source waits."""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from zpipe.config import load
from zpipe.errors import ConfigError
from zpipe.testing import make_context
from zpipe_plugins import schedule
from zpipe_plugins.schedule import Options, Schedule


class Clock(threading.Event):
    """`context.stopping`, which is set at the time `until`."""

    def __init__(self, now: str, until: str) -> None:
        super().__init__()
        self.now = datetime.fromisoformat(now).timestamp()
        self._until = datetime.fromisoformat(until).timestamp()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        self.now += timeout
        if self.now > self._until:
            self.set()
        return self.is_set()


def given(
    monkeypatch: pytest.MonkeyPatch, now: str, until: str, position: int | None = None, **options: Any
) -> list[tuple[Any, str, float]]:
    clock = Clock(now, until)
    monkeypatch.setattr(schedule.time, "time", lambda: clock.now)
    context = make_context(Options(**options), position=position, stopping=clock)
    found = []
    for message in Schedule().source(context):
        found.append((message.position, message.payload["due"], clock.now - message.position))
    assert all(wait <= 30 for wait in clock.waits)
    return found


def test_each_time_is_given_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    found = given(monkeypatch, "2026-01-31T12:00:10+00:00", "2026-01-31T12:03:30+00:00", cron="* * * * *")
    assert [due for _, due, _ in found] == [f"2026-01-31T12:0{n}:00+00:00" for n in (1, 2, 3)]
    assert all(late == 0 for _, _, late in found)


def test_seconds_and_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    found = given(monkeypatch, "2026-01-31T12:00:00+00:00", "2026-01-31T12:00:31+00:00", cron="* * * * * */15")
    assert [due[17:19] for _, due, _ in found] == ["15", "30"]
    clock = Clock("2026-01-31T12:00:00+00:00", "2026-01-31T12:01:10+00:00")
    monkeypatch.setattr(schedule.time, "time", lambda: clock.now)
    [one] = Schedule().source(make_context(Options("* * * * *", fields={"job": "report"}), stopping=clock))
    assert one.payload == {"due": "2026-01-31T12:01:00+00:00", "job": "report"} and one.origin == one.position


@pytest.mark.parametrize(("missed", "minutes"), [("last", [5, 6]), ("all", [1, 2, 3, 4, 5, 6]), ("none", [6])])
def test_what_was_missed_is_made_up_for(monkeypatch: pytest.MonkeyPatch, missed: str, minutes: list[int]) -> None:
    position = int(datetime.fromisoformat("2026-01-31T12:00:00+00:00").timestamp())
    found = given(
        monkeypatch,
        "2026-01-31T12:05:20+00:00",
        "2026-01-31T12:06:30+00:00",
        position,
        cron="* * * * *",
        missed=missed,
    )
    assert [int(due[14:16]) for _, due, _ in found] == minutes
    again = given(monkeypatch, "2026-01-31T12:06:40+00:00", "2026-01-31T12:06:50+00:00", found[-1][0], cron="* * * * *")
    assert again == [], "nothing was missed"


def test_a_year_that_was_missed_is_not_counted_through(monkeypatch: pytest.MonkeyPatch) -> None:
    position = int(datetime.fromisoformat("2020-01-31T12:00:00+00:00").timestamp())
    found = given(monkeypatch, "2026-01-31T12:00:59+00:00", "2026-01-31T12:00:59.5+00:00", position, cron="* * * * * *")
    assert [due for _, due, _ in found] == ["2026-01-31T12:00:59+00:00"]


def test_a_clock_that_is_set_back_gives_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    position = int(datetime.fromisoformat("2026-01-31T12:05:00+00:00").timestamp())
    found = given(monkeypatch, "2026-01-31T12:00:00+00:00", "2026-01-31T12:06:30+00:00", position, cron="* * * * *")
    assert [int(due[14:16]) for _, due, _ in found] == [6]


def test_days_with_a_clock_change(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}
    for begin, end, days in (
        (
            "2026-10-24T12:00:00+02:00",
            "2026-10-26T12:00:00+01:00",
            ["25T02:30:00+02", "25T02:30:00+01", "26T02:30:00+01"],
        ),
        ("2026-03-28T12:00:00+01:00", "2026-03-30T12:00:00+02:00", ["29T03:00:00+02", "30T02:30:00+02"]),
    ):
        found = given(monkeypatch, begin, end, **options)
        assert [due[8:22] for _, due, _ in found] == days


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ('cron = "61 * * * *"', "is no cron line"),
        ('cron = "@daily@"', "is no cron line"),
        ('cron = "* * * * *", timezone = "Europe/Berln"', "is not known here"),
        ('cron = "* * * * *", fields = { due = 1 }', "allowed is any other name"),
    ],
)
def test_wrong_options(options: str, words: str, tmp_path: Path) -> None:
    text = f'[pipeline]\nname = "p"\n[stages.at]\nplugin = "schedule"\noptions = {{ {options} }}\n'
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "p.toml", text=text + '[stages.out]\ninput = "at"\nplugin = "discard"\n')
    assert words in str(caught.value)
