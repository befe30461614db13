"""docs/monitor.md against what the monitor prints: every key of it, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from monitor_samples import CHAIN, config, link, snapshot

from zpipe.core.policy import StagePolicy
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import Identity
from zpipe.daemon.service.status import process_figures
from zpipe.daemon.storage.last_life import LastLife
from zpipe.monitor.model.bottleneck import Kind, Verdict
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.testing import seeded_bytes

PAGE = (Path(__file__).parents[3] / "docs" / "monitor.md").read_text(encoding="utf-8")


def documented(section: str, table: int = 0) -> set[str]:
    """The names in the first column of a table of a section."""
    found = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, section
    rows = found[1].split("\n|---|---|\n")[table + 1].split("\n\n")[0].splitlines()
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert len(names) == len(set(names))
    return set(names)


@pytest.fixture
def value() -> dict[str, Any]:
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("read", [link("map", produced=10, unsent=10)]), 100.0)
    model.add(snapshot("map", [link("sink")], received=4, queued=4, state="FAILED"), 100.0)
    return model.as_json(100.0)


def test_every_key_of_the_line(value: dict[str, Any]) -> None:
    assert documented("The line") == value.keys()


def test_every_key_of_a_stage(value: dict[str, Any]) -> None:
    for stage in value["stages"].values():
        assert documented("A stage") == stage.keys()


def test_every_key_of_a_link(value: dict[str, Any]) -> None:
    for row in value["links"]:
        assert documented("A link") == row.keys()


def test_every_key_and_kind_of_a_bottleneck(value: dict[str, Any]) -> None:
    verdict: Verdict = value["bottleneck"]
    assert documented("The bottleneck") == verdict.keys()
    assert documented("The bottleneck", 1) == set(get_args(Kind))


def test_every_key_of_an_instance() -> None:
    figures = process_figures("", None, 0, "", False, (0, 0.0), LastLife(), {})
    stage = Stage(
        Identity("p", "a", 1, "a1"),
        [],
        [("", "b")],
        StagePolicy(),
        0.0,
        seeded_bytes("random"),
        process_figures=lambda: figures,
    )
    assert documented("An instance") == stage.snapshot(1.0).keys()
