"""The stage is the only face of the core: what drives one asks it, and no part of it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

DAEMON = Path(__file__).parents[2] / "zpipe" / "daemon"
PARTS = {"counts", "lifecycle", "inlet", "downstream", "upstreams", "processing", "source", "shutdown", "tap", "report"}


def reaches(source: str) -> list[str]:
    """Expressions that take a part out of a stage."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute) and node.attr in PARTS]
    return [text for node in found if (text := ast.unparse(node)).split(".")[-2].strip("_") == "stage"]


@pytest.mark.parametrize("path", sorted(DAEMON.rglob("*.py")), ids=lambda path: str(path.relative_to(DAEMON)))
def test_the_daemon_asks_the_stage_and_not_its_parts(path: Path) -> None:
    assert reaches(path.read_text(encoding="utf-8")) == []


def test_a_reach_through_the_stage_is_found() -> None:
    assert reaches("stage.processing.replay([], 0.0)") == ["stage.processing"]
    assert reaches("self._stage.inlet") == ["self._stage.inlet"]
    assert reaches("stage.status().acked; self.stage.has_unsent") == []
