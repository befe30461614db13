"""The lines of `zpipe run` where no terminal is: how far it is, and how long it takes yet."""

from __future__ import annotations

from typing import Any

import pytest
from monitor_samples import CHAIN, config, snapshot

from zpipe.monitor.run.progress import LINE_S, PlainProgress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *snapshots: dict[str, Any]) -> list[str]:
    """The line after each snapshot, LINE_S apart."""
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    progress = PlainProgress(config(CHAIN))
    for one in snapshots:
        progress.snapshot(one)
        clock.now += LINE_S
        progress.turn()
    return capsys.readouterr().err.splitlines()


def test_nothing_is_said_of_the_time_left_before_anything_is_finished(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    none = snapshot("read", finished=0, total=1_000_000)
    some = snapshot("read", finished=250_000, total=1_000_000)
    assert lines(monkeypatch, capsys, none, some) == [
        "event=run.progress finished=0 total=1000000 percent=0",
        "event=run.progress finished=250000 total=1000000 percent=25 left_s=30",
    ]


def test_what_earlier_runs_finished_does_not_make_this_one_faster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begins = snapshot("read", finished=0, finished_before=900, total=100)
    later = snapshot("read", finished=10, finished_before=900, total=100)
    assert lines(monkeypatch, capsys, begins, later) == [
        "event=run.progress finished=900 total=1000 percent=90",
        "event=run.progress finished=910 total=1000 percent=91 left_s=90",
    ]
