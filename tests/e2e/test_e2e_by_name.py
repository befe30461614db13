"""Asking a pipeline that runs while its file on disk is broken, changed or gone, and by its name."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e_types import MakePipeline
from pipeline import Pipeline, send, wait_until

from zpipe.errors import ExitCode, NoPeerError
from zpipe.runtime import running_pipelines

CONFIG = """
[pipeline]
name = "named"
[telemetry]
interval = "100ms"
[stages.make]
plugin = "generate"
options = { rate = 200, fields = { token = "${SESAME}" } }
[stages.work]
input = "make"
plugin = "python"
options = { function = "work.py:work" }
[stages.keep]
input = "work"
plugin = "discard"
"""
WORK = """
import zpipe

def work(payload):
    if payload["id"] == 3:
        raise zpipe.Reject("three")
    return payload
"""
SECRET = "open-sesame-4711"
BROKEN = CONFIG.replace("plugin = ", "plugni = ")
EXIT = ExitCode.DONE


@pytest.fixture
def pipeline(make: MakePipeline, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """Running, until the test is over."""
    monkeypatch.setenv("SESAME", SECRET)
    made = make(CONFIG, work=WORK)
    for stage in ("keep", "work", "make"):
        made.stage(stage)
    for stage in ("keep", "work", "make"):
        made.pid(stage)
    wait_until(lambda: made.letters("work"), "a dead letter is there")
    return made


def commands(given: str) -> dict[str, list[str]]:
    return {
        "monitor": ["monitor", given, "--once", "--json"],
        "check": ["monitor", given, "--check", "--max-dead", "5"],
        "graph": ["graph", given, "--json"],
        "tap": ["tap", given, "make->work", "--count", "1", "--json"],
        "dead": ["dead", "list", given, "--json"],
        "pause": ["pause", given, "work"],
        "resume": ["resume", given, "work"],
    }


def breaks(pipeline: Pipeline) -> None:
    pipeline.path.write_text(BROKEN)


def is_no_toml(pipeline: Pipeline) -> None:
    pipeline.path.write_text("[pipeline\n")


def goes(pipeline: Pipeline) -> None:
    pipeline.path.unlink()


@pytest.mark.parametrize("happens", [breaks, is_no_toml, goes])
def test_every_command_works_by_what_runs_and_says_that_the_file_is_broken(
    pipeline: Pipeline, happens: Callable[[Pipeline], None]
) -> None:
    happens(pipeline)
    for given in (str(pipeline.path), "named"):
        for name, arguments in commands(given).items():
            command = pipeline.zpipe(*arguments)
            assert command.wait() == EXIT, (name, command.stderr)
            assert f"{pipeline.path} is no config that can be run; pipeline 'named' runs by what was read before" in (
                command.stderr
            )
            if name == "monitor":
                shown = json.loads(command.stdout)
                assert {one: row["state"] for one, row in shown["stages"].items()} == dict.fromkeys(
                    ("make", "work", "keep"), "RUNNING"
                )
            elif name in ("graph", "tap", "dead"):
                assert json.loads(command.stdout)
    drain = pipeline.zpipe("drain", "named", "--json")
    assert drain.wait() == EXIT, drain.stderr
    assert json.loads(drain.stdout)["balanced"]


def test_a_file_that_differs_is_named_with_what_differs(pipeline: Pipeline) -> None:
    pipeline.path.write_text(CONFIG + "# a word\n")
    same = pipeline.zpipe("graph", str(pipeline.path))
    assert (same.wait(), same.stderr) == (EXIT, "")

    pipeline.path.write_text(CONFIG.replace('[stages.keep]\ninput = "work"', '[stages.store]\ninput = "work"'))
    for given in (str(pipeline.path), "named"):
        differs = pipeline.zpipe("graph", given)
        assert differs.wait() == EXIT
        assert f"{pipeline.path} is not what runs: [stages.store], [stages.keep] differ; pipeline 'named'" in (
            differs.stderr
        )
        assert "keep" in differs.stdout and "store" not in differs.stdout, "it goes by what runs"
    drawn = pipeline.zpipe("graph", str(pipeline.path), "--file")
    assert drawn.wait() == EXIT
    assert "store" in drawn.stdout and "keep" not in drawn.stdout


def test_what_a_reload_took_over_is_what_runs(pipeline: Pipeline) -> None:
    pipeline.path.write_text(CONFIG.replace('"100ms"', '"150ms"'))
    before = pipeline.zpipe("graph", "named")
    assert before.wait() == EXIT
    assert "[telemetry] differ" in before.stderr
    for stage in ("make", "work", "keep"):
        send(pipeline.pid(stage), signal.SIGHUP)

    def quiet() -> bool:
        command = pipeline.zpipe("graph", "named")
        assert command.wait() == EXIT
        return command.stderr == ""

    wait_until(quiet, "every instance runs by the file")


def test_a_record_is_for_its_owner_and_has_no_value_of_a_variable(pipeline: Pipeline) -> None:
    for stage in ("make", "work", "keep"):
        folder = pipeline.home / "r" / f"named.{stage}.1"
        record = folder / "config.json"
        assert stat.S_IMODE(record.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        text = record.read_text()
        assert SECRET not in text
        value = json.loads(text)
        assert {"version", "hash", "config"} <= value.keys()
        assert value["config"]["stages"]["make"]["options"] is None


def test_a_variable_that_only_the_daemons_have_is_no_fault_of_the_file(pipeline: Pipeline) -> None:
    del pipeline.env["SESAME"]
    for given in (str(pipeline.path), "named"):
        command = pipeline.zpipe("monitor", given, "--check", "--max-dead", "5")
        assert (command.wait(), command.stderr) == (EXIT, "")


def test_a_name_outlives_the_run_for_the_letters(pipeline: Pipeline) -> None:
    assert pipeline.zpipe("drain", "named").wait() == EXIT
    letters = pipeline.zpipe("dead", "list", "named", "--json")
    assert letters.wait() == EXIT, letters.stderr
    assert json.loads(letters.stdout)["count"] == 1
    again = pipeline.zpipe("drain", "named")
    assert again.wait() == ExitCode.NO_PEER
    assert "no instance of pipeline 'named' is running" in again.stderr


@pytest.mark.parametrize("command", ["monitor", "drain"])
def test_a_name_that_nothing_runs_by(pipeline: Pipeline, command: str) -> None:
    asked = pipeline.zpipe(command, "namd")
    assert asked.wait() == ExitCode.NO_PEER
    assert "no pipeline 'namd' runs here (did you mean 'named'?)" in asked.stderr
    assert str(pipeline.home / "r") in asked.stderr


def test_a_broken_file_of_what_does_not_run_is_a_mistake(make: MakePipeline) -> None:
    pipeline = make(BROKEN, work=WORK)
    command = pipeline.zpipe("monitor", str(pipeline.path), "--once")
    assert command.wait() == ExitCode.USAGE
    assert "plugni" in command.stderr


@pytest.mark.needs("root")
def test_root_finds_what_others_run_and_trusts_no_folder_that_is_not_theirs(
    make: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like those of users without a session: /tmp/zpipe-UID."""
    pipeline = make(CONFIG.replace("${SESAME}", "x"), work=WORK)
    owner = 65533
    root = pipeline.home / f"zpipe-{owner}"
    pipeline.env |= {"ZPIPE_RUNTIME_DIR": str(root)}
    pipeline.stage("make")
    wait_until((root / "named.make.1" / "config.json").exists, "it has left its record")
    monkeypatch.delenv("ZPIPE_RUNTIME_DIR")
    monkeypatch.delenv("ZPIPE_STATE_DIR")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(pipeline.home))
    env = {name: value for name, value in pipeline.env.items() if not name.startswith("ZPIPE_")}
    with pytest.raises(NoPeerError, match="no pipeline 'named' runs here"):
        running_pipelines.find(Path("named"), env)  # of root, but in the name of another
    os.chown(root, owner, owner)
    found = running_pipelines.find(Path("named"), env)
    assert found.env["ZPIPE_RUNTIME_DIR"] == str(root)
    assert found.env["ZPIPE_STATE_DIR"] == str(pipeline.home / "s")
    root.chmod(0o777)
    with pytest.raises(NoPeerError):
        running_pipelines.find(Path("named"), env)
