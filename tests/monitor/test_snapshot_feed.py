from __future__ import annotations

from itertools import islice
from typing import Any, ClassVar

import pytest
from monitor_samples import CHAIN, config, snapshot

from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.snapshot_feed import due_at, follow, gather


def ignore(snapshot: dict[str, Any], at: float) -> None:
    """Nobody listens beside the model."""


class Script:
    """A feed that gives these lots, one a poll, then nothing."""

    def __init__(self, *lots: list[dict[str, Any]]) -> None:
        self.lots = list(lots)

    refused: ClassVar[dict[Any, str]] = {}

    def poll(self, timeout_s: float) -> list[dict[str, Any]]:
        return self.lots.pop(0) if self.lots else []


def test_gather_returns_when_all_are_heard_of() -> None:
    model = PipelineModel(config(CHAIN))
    rest = [snapshot("map")]
    feed = Script([snapshot("read")], [], [snapshot("map"), snapshot("sink")], rest)
    assert gather(feed, model, 1000.0, ignore)
    assert model.missing == []
    assert feed.lots == [rest]


def test_gather_gives_up_at_the_deadline() -> None:
    model = PipelineModel(config(CHAIN))
    assert not gather(Script(), model, 0.01, ignore)
    assert gather(Script([snapshot("read")]), model, 0.01, ignore)
    assert model.missing == ["map.1", "sink.1"]


def test_follow_shows_what_is_known_at_once_and_ends_when_all_have_stopped() -> None:
    model = PipelineModel(config(CHAIN))
    stopped = [snapshot(name, state="STOPPED") for name in CHAIN]
    states = [
        [stage["state"] for stage in value["stages"].values()]
        for value in islice(follow(Script([snapshot("read")], stopped), model, 0.001, ignore), 20)
    ]
    assert states[0] == ["ABSENT", "ABSENT", "ABSENT"]
    assert states[-1] == ["STOPPED", "STOPPED", "STOPPED"]
    assert len(states) < 20


def test_what_is_shown_is_what_all_have_just_said() -> None:
    """Snapshots are taken at multiples of the interval."""
    assert due_at(99.9, 1.0) == pytest.approx(100.2)
    assert due_at(100.0, 1.0) == pytest.approx(100.2)
    assert due_at(100.2, 1.0) == pytest.approx(101.2)
    assert due_at(100.3, 1.0) == pytest.approx(101.2)
