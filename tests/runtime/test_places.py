"""Marks and lives on a machine whose clock is set."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from zpipe.config import load
from zpipe.folders import make_private
from zpipe.runtime.places import MARK, Places

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"

[stages.take]
input = "read"
plugin = "discard"
"""


@pytest.fixture
def places(home: Path) -> Places:
    path = home / "p.toml"
    path.write_text(CONFIG)
    config = load(path)
    for stage in config.stages:
        make_private(Places(config, os.environ).state(stage, 1))
    return Places(config, os.environ)


def test_a_mark_counts_from_the_start_of_a_life_however_the_clock_is_set(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.mark("read", 1, True, {"of": "an earlier life"})
    places.begin_life("take", 1)
    assert places.stopped_at_end("read", 1) is None
    monkeypatch.setattr(time, "time", lambda: 0.0)
    places.mark("read", 1, True, {"of": "this life"})
    assert places.stopped_at_end("read", 1) == {"of": "this life"}


def test_a_mark_of_another_boot_is_of_an_earlier_life(places: Places) -> None:
    places.begin_life("take", 1)
    places.mark("read", 1, True, {})
    path = places.state("read", 1) / MARK
    path.write_text(path.read_text().replace('"boot": "', '"boot": "0'))
    assert places.stopped_at_end("read", 1) is None
