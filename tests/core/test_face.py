"""The stage is the only face of the core: what drives one asks it, and no part of it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from zpipe.core import events
from zpipe.core.policy import StagePolicy
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import Identity
from zpipe.testing.node import seeded_bytes

DAEMON = Path(__file__).parents[2] / "zpipe" / "daemon"
PARTS = {"counts", "lifecycle", "inlet", "downstream", "upstreams", "processing", "source", "shutdown", "tap", "report"}


def reaches(source: str) -> list[str]:
    """Expressions that take a part out of a stage."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute) and node.attr in PARTS]
    return [text for node in found if (text := ast.unparse(node)).split(".")[-2].strip("_") == "stage"]


@pytest.fixture
def stage() -> Stage:
    return Stage(Identity("p", "a", 1, "a1"), [], [("", "b")], StagePolicy(), 0.0, seeded_bytes("a"))


@pytest.mark.parametrize("path", sorted(DAEMON.rglob("*.py")), ids=lambda path: str(path.relative_to(DAEMON)))
def test_the_daemon_asks_the_stage_and_not_its_parts(path: Path) -> None:
    assert reaches(path.read_text(encoding="utf-8")) == []


def test_a_reach_through_the_stage_is_found() -> None:
    assert reaches("stage.processing.replay([], 0.0)") == ["stage.processing"]
    assert reaches("self._stage.inlet") == ["self._stage.inlet"]
    assert reaches("stage.status().acked; self.stage.has_unsent") == []


def test_the_face_is_small() -> None:
    """What happens comes in as an event, and questions of one matter have a face of their own."""
    assert len([name for name in vars(Stage) if not name.startswith("_")]) <= 14


def test_a_stage_knows_what_to_do_about_each_event(stage: Stage) -> None:
    kinds = {kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, events.Event)}
    assert kinds - {events.Event} == stage._handlers.keys()
