"""docs/monitor.md against what the monitor prints: every key of it, and no other.

The keys of a snapshot are PROTOCOL.md's, and so are the counts that are in no sum (`tests/core/wire/test_protocol.py`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from monitor_samples import CHAIN, config, link, snapshot

from zpipe.core.ledger import OTHERS
from zpipe.monitor.model.bottleneck import Kind, Verdict
from zpipe.monitor.model.pipeline import PipelineModel

PAGE = (Path(__file__).parents[3] / "docs" / "monitor.md").read_text(encoding="utf-8")


def documented(section: str, table: int = 0) -> set[str]:
    """The names in the first column of a table of a section."""
    found = re.search(rf"^### {section}\n(.*?)(?=^##+ |\Z)", PAGE, re.MULTILINE | re.DOTALL)
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
        assert documented("A stage") == stage.keys() - set(OTHERS)
        assert stage.keys() >= set(OTHERS)


def test_every_key_of_a_link(value: dict[str, Any]) -> None:
    for row in value["links"]:
        assert documented("A link") == row.keys()


def test_every_key_and_kind_of_a_bottleneck(value: dict[str, Any]) -> None:
    verdict: Verdict = value["bottleneck"]
    assert documented("The bottleneck") == verdict.keys()
    assert documented("The bottleneck", 1) == set(get_args(Kind))
