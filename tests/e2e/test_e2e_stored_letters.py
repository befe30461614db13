"""What is stored as dead letters is said truly: over kills and restarts, after a drop and after a replay."""

from __future__ import annotations

from dead_letters import dead, replayed
from e2e_types import MakePipeline
from pipeline import Pipeline, wait_until

PICKY = """
from pathlib import Path


def work(payload):
    if payload["id"] in (3, 4, 5) and not Path(__file__).with_name("mended").exists():
        raise ValueError("cannot work on it")
    return payload
"""
SOON_S = 60.0


def check(pipeline: Pipeline) -> str:
    """What a check that allows no letters prints."""
    checked = pipeline.zpipe("monitor", str(pipeline.path), "--check", "--max-dead", "0", "--timeout", "60")
    code = checked.wait(SOON_S)
    assert (code == 0) == checked.stdout.startswith("OK"), checked.stdout + checked.stderr
    return checked.stdout


def stored(pipeline: Pipeline) -> tuple[int, int]:
    """(stored, counted in this incarnation) as the monitor has it."""
    stage = pipeline.monitored("work")
    return stage["dead_stored"], stage["dead"]


def test_stored_letters_stay_until_they_are_dropped_or_replayed(make_work: MakePipeline) -> None:
    pipeline = make_work(PICKY, retry="attempts = 1")
    for stage in ("read", "work", "store"):
        pipeline.stage(stage)
    wait_until(lambda: len(pipeline.letters("work")) == 3, "three letters", SOON_S)
    wait_until(lambda: stored(pipeline) == (3, 3), "they are counted", SOON_S)
    assert "work has 3 dead letters stored, more than 0" in check(pipeline)

    pipeline.kill("work")
    pipeline.stage("work")
    pipeline.pid("work")
    assert "work has 3 dead letters stored, more than 0" in check(pipeline), "the kill has cleared nothing"
    assert stored(pipeline) == (3, 0)

    dead(pipeline, "drop", "work.1/1", "--yes")
    wait_until(lambda: stored(pipeline) == (2, 0), "one was dropped by another process", SOON_S)

    (pipeline.folder / "mended").touch()
    assert replayed(pipeline, "--all")["replayed"] == 2
    wait_until(lambda: stored(pipeline) == (0, 0), "the others are replayed", SOON_S)
    assert "dead letters stored 0" in check(pipeline)
