"""`zpipe drain`, `pause` and `resume` as their users call them: what they say, what they leave, and their exit codes."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest
from e2e_types import MakePipeline
from pipeline import Command, Pipeline, Snapshot, ids, wait_until

from zpipe.cli import group
from zpipe.errors import ZpipeError

CONFIG = """
[pipeline]
name = "d"

[telemetry]
interval = "200ms"

[stages.read]
plugin = "generate"
options = { rate = 500 }

[stages.work]
input = "read"
plugin = "python"
instances = 2
options = { function = "work.py:work" }

[stages.store]
input = "work"
plugin = "sqlite"
batch = { messages = 64, timeout = "10m" }
options = { path = "out.db", table = "t", key = "id" }
"""
NAMES = [("read", 1), ("work", 1), ("work", 2), ("store", 1)]
WORK = """
import time
from pathlib import Path


def work(payload):
    while Path(__file__).with_name("stuck").exists():
        time.sleep(0.01)
    return payload
"""
SOON_S = 60.0


def start(make: MakePipeline) -> tuple[Pipeline, dict[tuple[str, int], Command]]:
    """The pipeline as `zpipe stage` processes, under way."""
    pipeline = make(CONFIG, work=WORK)
    stages = {name: pipeline.stage(*name) for name in NAMES}
    wait_until(lambda: pipeline.count() > 0, "something is stored", SOON_S)
    return pipeline, stages


def ask(pipeline: Pipeline, command: str, *arguments: str) -> Command:
    """A command that has ended, however it ended; never with a traceback."""
    asked = pipeline.zpipe(command, str(pipeline.path), *arguments)
    asked.wait(SOON_S)
    assert "Traceback" not in asked.stderr, asked.stderr
    return asked


def code(command: Command) -> int | None:
    return command.process.returncode


def ledger_of(command: Command) -> dict[str, Any]:
    ledger: dict[str, Any] = json.loads(command.stdout.splitlines()[-1])
    return ledger


def assert_drains(pipeline: Pipeline) -> dict[str, Any]:
    """A drain ends with exit code 0; every id read is stored once. Its ledger."""
    ledger = pipeline.zpipe("drain", str(pipeline.path), "--json", "--timeout", str(SOON_S)).ledger(2 * SOON_S)
    stored = ids(pipeline.query("SELECT id FROM t ORDER BY id"))
    assert stored == list(range(len(stored)))
    assert pipeline.position("read") == len(stored) - 1
    return ledger


def test_a_drain_balances_and_flushes_a_batch_that_waits_ten_minutes(make: MakePipeline) -> None:
    pipeline, stages = start(make)
    ledger = assert_drains(pipeline)
    assert set(ledger) == {"pipeline", "balanced", "seconds", "stages", "links"}
    assert ledger["seconds"] < SOON_S
    assert [(link["from"], link["to"]) for link in ledger["links"]] == [("read", "work"), ("work", "store")]
    for link in ledger["links"]:
        assert link["sent"] == link["acked"] + link.get("dead", 0) + link.get("returned", 0), link
    assert ledger["stages"]["read"]["received"] == pipeline.count()
    for name, stage in stages.items():
        assert stage.wait(SOON_S) == 0, name


def test_a_drain_that_is_late_says_who_holds_what_and_goes_on(make: MakePipeline) -> None:
    pipeline, stages = start(make)
    (pipeline.folder / "stuck").touch()
    late = ask(pipeline, "drain", "--timeout", "1", "--json")
    assert code(late) == 4
    ledger = ledger_of(late)
    assert not ledger["balanced"]
    assert any(problem.startswith("work.1 is ") and "holds " in problem for problem in ledger["problems"]), ledger
    assert "work.1" in late.stderr
    again = pipeline.zpipe("drain", str(pipeline.path))
    wait_until(lambda: "read.1 " in again.stderr, "a second drain shows it", SOON_S)
    again.interrupt()
    assert again.wait(SOON_S) == 1
    assert "goes on" in again.stderr
    assert "Traceback" not in again.stderr
    (pipeline.folder / "stuck").unlink()
    for name, stage in stages.items():
        assert stage.wait(SOON_S) == 0, name
    stored = ids(pipeline.query("SELECT id FROM t ORDER BY id"))
    assert stored == list(range(len(stored)))


def test_one_instance_leaves_and_its_sibling_takes_over(make: MakePipeline) -> None:
    pipeline, stages = start(make)
    left = ask(pipeline, "drain", "work.2")
    assert code(left) == 0, left.stderr
    assert "work.2" in left.stderr
    assert stages["work", 2].wait(SOON_S) == 0
    stored = pipeline.count()
    wait_until(lambda: pipeline.count() > stored + 200, "the sibling goes on", SOON_S)
    assert stages["work", 1].running
    assert_drains(pipeline)


def test_a_pause_holds_over_a_kill_until_resume(make: MakePipeline) -> None:
    pipeline, stages = start(make)
    paused = ask(pipeline, "pause", "read")
    assert code(paused) == 0
    assert paused.stdout == "read.1 is paused\n"
    wait_until(lambda: pipeline.position("read") is not None, "its position is committed", SOON_S)
    pipeline.kill("read")
    stages["read", 1].wait(SOON_S)
    before = pipeline.position("read")
    pipeline.stage("read")
    with pipeline.watch() as watch:

        def seen() -> Snapshot:
            watch.poll(0.0)
            return watch.snapshots.get(("read", 1), defaultdict(int))

        since = wait_until(lambda: seen()["paused"] and seen()["at"], "it is there again, and paused", SOON_S)
        wait_until(lambda: seen()["at"] > since + 0.7, "it stays so", SOON_S)
        assert (seen()["paused"], seen()["received"]) == (True, 0)
    assert pipeline.position("read") == before
    resumed = ask(pipeline, "resume", "read.1")
    assert code(resumed) == 0
    assert resumed.stdout == "read.1 goes on\n"
    wait_until(lambda: pipeline.position("read") > before, "it reads again", SOON_S)
    assert_drains(pipeline)


def test_a_paused_source_that_is_started_again_reads_nothing(make: MakePipeline) -> None:
    pipeline = make(CONFIG.replace("rate = 500", "size = 1"), work=WORK)
    first = pipeline.stage("read")
    wait_until(lambda: "event=ready" in first.stderr, "it is there", SOON_S)
    assert code(ask(pipeline, "pause", "read")) == 0
    pipeline.kill("read")
    first.wait(SOON_S)
    again = pipeline.stage("read")
    wait_until(lambda: "event=ready" in again.stderr, "it is there again", SOON_S)
    [seen] = json.loads(ask(pipeline, "monitor", "--once", "--json").stdout)["stages"]["read"]["instances"]
    assert (seen["paused"], seen["received"]) == (True, 0)


@pytest.mark.parametrize("command", ["drain", "pause", "resume"])
@pytest.mark.parametrize("name", ["wrok", "work.x", "work.", "work.2.3", "work.\u00b2"])
def test_a_typo_is_answered_with_the_names(make: MakePipeline, command: str, name: str) -> None:
    with pytest.raises(ZpipeError, match=r"read.*work.*store") as caught:
        group.main([command, str(make(CONFIG, work=WORK).path), name], standalone_mode=False)
    assert caught.value.exit_code in (1, 2)


@pytest.mark.parametrize(("command", "target"), [("drain", ()), ("drain", ("work.7",)), ("pause", ("read",))])
def test_nobody_there_is_exit_code_5(make: MakePipeline, command: str, target: tuple[str, ...]) -> None:
    asked = ask(make(CONFIG, work=WORK), command, *target)
    assert code(asked) == 5
    assert (target or ("'d'",))[0] in asked.stderr


GATED = """
[stages.slow]
plugin = "generate"
options = { rate = 500 }

[stages.gated]
input = "slow"
plugin = "python"
options = { function = "work.py:work" }
"""


def test_a_drain_ends_an_instance_that_was_started_too_late_for_it(make: MakePipeline) -> None:
    """It finds the mark of an upstream that ended before its start, which may be of an earlier stream. A second branch keeps the
    drain going meanwhile."""
    untouched = WORK.replace("def work", "def same(payload):\n    return payload\n\n\ndef work")
    config = CONFIG.replace("work.py:work", "work.py:same") + GATED
    pipeline = make(config, work=untouched)
    stages = {name: pipeline.stage(*name) for name in [*NAMES, ("slow", 1), ("gated", 1)]}
    wait_until(lambda: pipeline.count() > 0, "something is stored", SOON_S)
    wait_until(lambda: "event=ready" in stages["work", 2].stderr, "the second is there, and hears signals", SOON_S)
    stages["work", 2].process.terminate()
    assert stages["work", 2].wait(SOON_S) == 0
    (pipeline.folder / "stuck").touch()
    drain = pipeline.zpipe("drain", str(pipeline.path), "--json", "--timeout", str(2 * SOON_S))
    for name in ("read", 1), ("work", 1), ("store", 1):
        assert stages[name].wait(SOON_S) == 0, name
    late = pipeline.stage("work", 2)
    wait_until(lambda: "work.2 RUNNING holds 0" in drain.stderr or not late.running, "the drain sees it", SOON_S)
    (pipeline.folder / "stuck").unlink()
    assert drain.ledger(SOON_S)["balanced"]
    assert late.wait(SOON_S) == 0
