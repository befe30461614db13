"""`zpipe monitor` on real daemons."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_samples import CONFIG
from click.testing import CliRunner

from zpipe.cli.operating import monitor as monitor_command
from zpipe.config import load
from zpipe.errors import ExitCode, NoPeerError
from zpipe.monitor import snapshot_feed
from zpipe.runtime.locks import InstanceLock
from zpipe.runtime.places import Places

DEADLINE_S = 60.0
ZPIPE = (sys.executable, "-m", "zpipe")


@pytest.fixture
def config(home: Path) -> Path:
    path = home / "watched.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def pipeline(config: Path) -> Iterator[Path]:
    """Running, until the test is over."""
    with contextlib.ExitStack() as stack:
        for stage in ("sink", "make"):
            command = [*ZPIPE, "stage", str(config), stage]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(process.kill)
        yield config


@contextlib.contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """It ends with the test, also with one that fails: it may be writing to a terminal that nobody reads any more."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def monitor(config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*ZPIPE, "monitor", str(config), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def test_once_as_json(pipeline: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        result = monitor(pipeline, "--once", "--json", "--timeout", "60")
        assert result.returncode == ExitCode.DONE, result.stderr
        value = json.loads(result.stdout)
        states = [stage["state"] for stage in value["stages"].values()]
        # A snapshot covers one interval of 200 ms: 40 messages; the first after the start may cover less. Nothing is said to hold
        # the pipeline up as long as a link grows, which a busy machine has it do for a moment.
        flows = states == ["RUNNING", "RUNNING"] and value["stages"]["sink"]["rate_in"] > 100
        if flows and value["bottleneck"] is not None:
            break
        assert time.monotonic() < deadline, value
    assert set(value) == {"pipeline", "at", "stages", "links", "bottleneck", "clocks"}
    assert value["pipeline"] == "watched"
    assert (value["bottleneck"]["stage"], value["bottleneck"]["kind"]) == ("make", "source")
    for name, stage in value["stages"].items():
        (snapshot,) = stage["instances"]
        assert (snapshot["stage"], snapshot["instance"], snapshot["pipeline"]) == (name, 1, "watched")
        assert sum(stage["budget"].values()) == pytest.approx(1.0)
        assert {"dead", "retries", "duplicates", "depth", "rate_out"} <= set(stage)
    (link,) = value["links"]
    assert (link["from"], link["to"]) == ("make", "sink")
    assert link["rate"] > 100
    assert value["stages"]["make"]["progress"]["finished"] > 0


def test_once_as_text_has_no_colours(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = monitor(pipeline, "--once", "--timeout", "60")
    assert result.returncode == ExitCode.DONE, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "watched"
    assert lines[1].split()[:2] == ["STAGE", "STATE"]
    assert [line.lstrip(" *").split()[0] for line in lines[2:4]] == ["make", "sink"]
    assert "\x1b" not in result.stdout


def test_a_line_of_json_an_interval_until_interrupted(pipeline: Path) -> None:
    command = [*ZPIPE, "monitor", str(pipeline), "--json", "--timeout", "60"]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        values = [json.loads(process.stdout.readline()) for _ in range(4)]
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(DEADLINE_S) == ExitCode.DONE
        assert process.stderr.read() == ""
    # Three intervals of 200 ms, less what the first was late; nothing bounds it from above on a busy machine.
    assert values[-1]["at"] - values[0]["at"] > 0.3


def test_nobody_there(config: Path) -> None:
    result = monitor(config, "--once", "--timeout", "0.3")
    assert result.returncode == ExitCode.NO_PEER
    assert result.stdout == ""
    assert result.stderr.startswith("zpipe: no instance of pipeline 'watched' is heard of in 0.3 s: is it running?")


def test_ends_when_every_instance_has_stopped(home: Path) -> None:
    path = home / "short.toml"
    path.write_text(CONFIG.replace("rate = 200", "count = 300, rate = 100"))
    with contextlib.ExitStack() as stack:
        watching = [*ZPIPE, "monitor", str(path), "--json", "--timeout", "60"]
        monitor = stack.enter_context(subprocess.Popen(watching, stdout=subprocess.PIPE, text=True))
        stack.callback(monitor.kill)
        for stage in ("sink", "make"):
            command = [*ZPIPE, "stage", str(path), stage]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(process.kill)
        output, _ = monitor.communicate(timeout=DEADLINE_S)
        assert monitor.returncode == ExitCode.DONE
    last = json.loads(output.splitlines()[-1])
    assert [stage["state"] for stage in last["stages"].values()] == ["STOPPED", "STOPPED"]
    assert last["stages"]["sink"]["completed"] == 300


# For scripts


def test_check_says_ok_or_what_is_wrong_in_one_line(pipeline: Path) -> None:
    result = monitor(
        pipeline, "--check", "--timeout", "60", "--max-depth", "100000", "--max-dead", "0", "--max-age", "1h"
    )
    assert result.returncode == ExitCode.DONE, result.stdout + result.stderr
    assert result.stdout.startswith("OK watched: 2 instances, deepest make->sink ")
    assert result.stdout.count("\n") == 1
    with contextlib.ExitStack() as stack:
        command = [*ZPIPE, "pause", str(pipeline), "sink"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        stack.callback(subprocess.run, [*ZPIPE, "resume", str(pipeline), "sink"], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + DEADLINE_S
        while (result := monitor(pipeline, "--check", "--max-depth", "make->sink=5")).returncode != ExitCode.FAILED:
            assert time.monotonic() < deadline, result
    assert result.stdout.startswith("FAILED watched: make->sink has depth ")
    assert result.stdout.count("\n") == 1


def test_who_is_missing_is_absent_only_after_it_was_waited_for(config: Path) -> None:
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen([*ZPIPE, "stage", str(config), "sink"], stderr=subprocess.DEVNULL)
        )
        stack.callback(process.kill)
        deadline = time.monotonic() + DEADLINE_S
        while (result := monitor(config, "--once", "--json", "--timeout", "1")).returncode != ExitCode.DONE:
            assert time.monotonic() < deadline, result
        (make, sink) = json.loads(result.stdout)["stages"].values()
        assert (make["state"], make["unheard"], sink["state"]) == ("UNHEARD", [1], "RUNNING")
        (make, _) = json.loads(monitor(config, "--once", "--json").stdout)["stages"].values()
        assert (make["state"], make["absent"], make["unheard"]) == ("ABSENT", [1], [])


def test_who_runs_and_answers_late_is_waited_for(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that is busy, or was frozen for a while."""
    with contextlib.ExitStack() as stack:
        processes = []
        for stage in ("sink", "make"):
            command = [*ZPIPE, "stage", str(config), stage]
            processes.append(stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL)))
            stack.callback(processes[-1].kill)
        assert monitor(config, "--once", "--timeout", "60").returncode == ExitCode.DONE
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        gather = snapshot_feed.gather

        def gather_and_thaw(*args: Any) -> bool:
            heard = gather(*args)
            for process in processes:
                process.send_signal(signal.SIGCONT)
            return heard

        monkeypatch.setattr(snapshot_feed, "gather", gather_and_thaw)
        monkeypatch.setattr(monitor_command, "LATE_ANSWER_S", DEADLINE_S)
        result = CliRunner().invoke(monitor_command.command, [str(config), "--once", "--json"], standalone_mode=False)
    assert result.exception is None
    (make, sink) = json.loads(result.stdout)["stages"].values()
    assert (make["state"], sink["state"]) == ("RUNNING", "RUNNING")


def test_who_runs_and_never_answers_is_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Places(load(config, only=""), os.environ).runtime("make", 1)
    folder.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(monitor_command, "LATE_ANSWER_S", 0.1)
    with contextlib.ExitStack() as stack:
        stack.callback(InstanceLock(folder, "watched.make.1").release)
        result = CliRunner().invoke(monitor_command.command, [str(config), "--once"], standalone_mode=False)
    assert isinstance(result.exception, NoPeerError)
    assert " s: make.1 runs but does not answer (stopped?) (runtime folder " in str(result.exception)


def test_a_check_of_what_does_not_run_is_no_peer(config: Path) -> None:
    assert monitor(config, "--check", "--timeout", "0.3").returncode == ExitCode.NO_PEER


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-dead", "3"], "--max-dead is for --check"),
        (
            ["--check", "--max-depth", "make->nobody=3"],
            "has no link 'make->nobody' (did you mean 'make->sink'?); it has make->sink",
        ),
        (["--check", "--max-depth", "many"], "'many' is no number of messages"),
        (["--check", "--max-age", "long"], "long"),
        (["--replay", "x", "--record", "y"], "--record is for a pipeline that runs"),
        (["--at", "+3s"], "--at is a moment of a recording"),
    ],
)
def test_options_that_say_nothing_are_refused(config: Path, options: list[str], said: str) -> None:
    result = monitor(config, *options)
    assert result.returncode == ExitCode.USAGE
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("name", "end"), [("r.ndjson", signal.SIGINT), ("r.ndjson.gz", signal.SIGTERM)])
def test_what_was_recorded_is_shown_again(pipeline: Path, home: Path, name: str, end: signal.Signals) -> None:
    path = home / name
    command = [*ZPIPE, "monitor", str(pipeline), "--json", "--record", str(path), "--timeout", "60"]
    with started(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        live = [json.loads(process.stdout.readline()) for _ in range(8)]
        process.send_signal(end)
        process.stdout.read()
        assert process.wait(DEADLINE_S) == ExitCode.DONE
    assert (gzip.decompress if path.suffix == ".gz" else bytes)(path.read_bytes()).endswith(b"}\n")
    at = live[6]["at"]
    result = monitor(pipeline, "--replay", str(path), "--once", "--json", "--at", str(at))
    assert result.returncode == ExitCode.DONE, result.stderr
    value = json.loads(result.stdout)
    # A snapshot that came between two readings counts from when it was read.
    assert abs(value["stages"]["sink"]["received"] - live[6]["stages"]["sink"]["received"]) <= 200
    assert value["at"] == pytest.approx(at)
    every = monitor(pipeline, "--replay", str(path), "--json").stdout.splitlines()
    assert len(every) >= 5
    assert "sink" in monitor(pipeline, "--replay", str(path), "--once", "--at", "+0s").stdout
    late = monitor(pipeline, "--replay", str(path), "--once", "--at", "+1h")
    assert late.returncode == ExitCode.USAGE
    assert "is not in the recording, which is from" in late.stderr
