"""Commands on a pipeline whose instances say in their snapshots only what PROTOCOL.md 5.9 requires, as a stage in another
language may: real daemons, with all other keys taken out of what they publish."""

from __future__ import annotations

import json
import os

import pytest
from dead_letters import BAD, CONFIG, GOOD, replayed, stored
from e2e_types import MakePipeline
from pipeline import Pipeline, wait_until

from zpipe.core.ledger import COUNTS
from zpipe.core.telemetry.snapshot import LINK_COUNTS

STREAM = """
[pipeline]
name = "least"

[telemetry]
interval = "200ms"

[stages.read]
plugin = "generate"
options = { rate = 500 }

[stages.work]
input = "read"
plugin = "python"
options = { function = "work.py:work" }

[stages.store]
input = "work"
plugin = "sqlite"
batch = { messages = 100, timeout = "50ms" }
options = { path = "out.db", table = "t", key = "id" }
"""
WORK = """
def work(payload):
    return payload
"""
REQUIRED = ("pipeline", "stage", "instance", "incarnation", "state", *COUNTS)
CUT_DOWN = f"""
from zpipe.core import stage

full = stage.Stage.snapshot


def least(self, now):
    said = full(self, now)
    links = [{{key: row[key] for key in ("outlet", "to", *{LINK_COUNTS!r})}} for row in said["links"]]
    return {{key: said[key] for key in {REQUIRED!r}}} | {{"links": links}}


stage.Stage.snapshot = least
"""
SOON_S = 60.0


def cut_down(pipeline: Pipeline) -> None:
    """Every Python that the pipeline's commands start has this."""
    site = pipeline.home / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(CUT_DOWN)
    pipeline.env["PYTHONPATH"] = os.pathsep.join([str(site), pipeline.env.get("PYTHONPATH", "")])


@pytest.fixture
def running(make: MakePipeline) -> Pipeline:
    pipeline = make(STREAM, work=WORK)
    cut_down(pipeline)
    for stage in ("read", "work", "store"):
        pipeline.stage(stage)
    wait_until(lambda: pipeline.count() > 100, "something is stored", SOON_S)
    return pipeline


def test_a_drain_ends_and_balances(running: Pipeline) -> None:
    drain = running.zpipe("drain", str(running.path), "--json", "--timeout", "60")
    ledger = drain.ledger(SOON_S)
    assert ledger["stages"]["store"]["completed"] == running.count() == running.position("read") + 1
    assert "KeyError" not in drain.stderr and "Traceback" not in drain.stderr


def test_the_monitor_and_its_check_say_what_they_know(running: Pipeline) -> None:
    shown = running.zpipe("monitor", str(running.path), "--once", "--json")
    assert shown.wait(SOON_S) == 0, shown.stderr
    value = json.loads(shown.stdout)
    assert set(value["stages"]["work"]["instances"][0]) == {*REQUIRED, "links"}
    assert value["bottleneck"] is None and value["stages"]["work"]["budget"] is None
    check = running.zpipe("monitor", str(running.path), "--check", "--max-depth", "100000")
    assert check.wait(SOON_S) == 0, check.stdout
    assert check.stdout.startswith("OK least: 3 instances, deepest ")


def test_a_run_ends_with_its_ledger_and_letters_are_replayed(make: MakePipeline) -> None:
    pipeline = make(CONFIG, work=BAD)
    cut_down(pipeline)
    pipeline.run().ledger()
    (pipeline.folder / "work.py").write_text(GOOD)
    result = replayed(pipeline, "--all")
    assert (result["replayed"], result["left"]) == (10, 0)
    assert stored(pipeline) == list(range(1000))
