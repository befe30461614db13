"""`zpipe tap` on real daemons."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zpipe.errors import ExitCode
from zpipe.testing import load_fixture

DEADLINE_S = 60.0
CONFIG = """
[pipeline]
name = "tapped"
[stages.make]
plugin = "generate"
options = { rate = 300, fields = { user = { email = "ann@example.org", name = "Ann" }, token = "sesame" } }
[stages.sort]
input = "make"
plugin = "./sort.py"
[stages.even]
input = "sort"
plugin = "discard"
[stages.odd]
input = "sort.odd"
plugin = "discard"
"""
SORT = """
from zpipe import Message, hookimpl


@hookimpl
def zpipe_outlets():
    return ("odd",)


@hookimpl
def zpipe_process(message):
    n = message.payload["id"]
    return Message({**message.payload, "twice": 2 * n}, outlet="odd" if n % 2 else "")
"""
ZPIPE = (sys.executable, "-m", "zpipe")


@pytest.fixture
def config(home: Path) -> Path:
    (home / "sort.py").write_text(SORT)
    path = home / "tapped.toml"
    path.write_text(CONFIG)
    return path


@contextlib.contextmanager
def running(config: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for stage in ("even", "odd", "sort", "make"):
            command = [*ZPIPE, "stage", str(config), stage]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(process.kill)
        yield


@pytest.fixture
def pipeline(config: Path) -> Iterator[Path]:
    """Running, until the test is over."""
    with running(config):
        yield config


def tap(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*ZPIPE, "tap", "--timeout", "60", str(config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def rows(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert result.returncode == ExitCode.DONE, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_stage_shows_what_enters_and_leaves(pipeline: Path) -> None:
    result = tap(pipeline, "sort", "--count", "300", "--rate", "1000", "--json")
    found = rows(result)
    assert len(found) == 300
    assert {(row["from"], row["outlet"], row["to"]) for row in found} == {
        ("make", "", "sort"),
        ("sort", "", "even"),
        ("sort", "odd", "odd"),
    }
    for row in found:
        left = row["from"] == "sort"
        assert (row["stage"], row["instance"], row["attempt"]) == ("sort", 1, 1)
        assert ("twice" in row["payload"]) is left
        assert not left or (row["outlet"] == "odd") is bool(row["payload"]["id"] % 2)
        assert row["id"] == f"make:{row['payload']['id']}"
        assert row["origin"] <= row["at"]
    assert result.stderr.startswith("zpipe: messages: ") and " that passed" in result.stderr


def test_a_link_a_filter_and_a_redaction(pipeline: Path) -> None:
    arguments = ("--where", "twice>=20", "--where", "user.name~^A", "--redact", "email,token", "--count", "5")
    shown = tap(pipeline, "sort.odd->odd", *arguments)
    assert shown.returncode == ExitCode.DONE, shown.stderr
    heading, body = shown.stdout.splitlines()[:2]
    assert heading.startswith("sort.odd 1 -> odd 1  make:")
    payload = json.loads(body)
    assert payload["user"] == {"email": "[redacted]", "name": "Ann"}
    assert payload["token"] == "[redacted]"
    assert payload["twice"] >= 20 and payload["id"] % 2
    assert "sesame" not in shown.stdout and "example.org" not in shown.stdout
    assert "\x1b" not in shown.stdout
    assert "met the conditions" in shown.stderr


def test_what_is_saved_is_a_fixture_for_tests(pipeline: Path, tmp_path: Path) -> None:
    path = tmp_path / "sort.ndjson"
    found = rows(tap(pipeline, "make->sort", "--save", str(path), "--count", "3", "--json", "--redact", "token"))
    messages = load_fixture(path)
    assert [message.payload for message in messages] == [row["payload"] for row in found]
    assert [message.id for message in messages] == [row["id"] for row in found]
    assert messages[0].payload["token"] == "[redacted]"
    namespace: dict[str, Any] = {}
    exec(SORT, namespace)
    results = [namespace["zpipe_process"](message) for message in messages]
    assert [result.payload["twice"] for result in results] == [2 * message.payload["id"] for message in messages]
    again = tap(pipeline, "make->sort", "--save", str(path), "--count", "3")
    assert again.returncode == ExitCode.FAILED
    assert again.stderr == f"zpipe: {path} is there already: name another file, or remove it\n"
    assert len(load_fixture(path)) == 3


def test_it_waits_for_the_pipeline_and_ends_with_it(config: Path) -> None:
    config.write_text(CONFIG.replace("rate = 300", "rate = 100, count = 300"))
    command = [*ZPIPE, "tap", "--timeout", "60", str(config), "even", "--rate", "1000", "--json"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
        running(config),
    ):
        stdout, stderr = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == ExitCode.DONE, stderr
    found = [json.loads(line) for line in stdout.splitlines()]
    assert 0 < len(found) <= 150
    assert {row["to"] for row in found} == {"even"}


def test_nobody_there(config: Path) -> None:
    saved = config.with_name("saved.ndjson")
    result = tap(config, "sort", "--timeout", "0.3", "--save", str(saved))
    assert result.returncode == ExitCode.NO_PEER
    assert result.stdout == ""
    assert result.stderr.startswith("zpipe: sort of pipeline 'tapped' does not answer: is it running? (runtime folder ")
    assert not saved.exists(), "nothing was saved, so nothing is in the way of the next try"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["srt"], "has no stage 'srt' (did you mean 'sort'?); it has make, sort, even, odd"),
        (["sort.0"], "'sort.0' is no STAGE.N"),
        (["make->odd"], "it has make->sort, sort->even, sort.odd->odd"),
        (["sort->odd"], "(did you mean 'sort.odd->odd'?)"),
        (["sort", "--where", "n"], "'n' is no condition: allowed are FIELD=VALUE"),
        (["sort", "--where", "id>"], "nothing stands after >"),
        (["sort", "--timeout", "5 apples"], "must be a time such as 5 (seconds)"),
        (["sort", "--redact", "a,,b"], "'' is no field"),
        (["sort", "--rate", "0"], "--rate"),
    ],
)
def test_mistakes_say_what_is_allowed(config: Path, arguments: list[str], said: str) -> None:
    result = tap(config, *arguments)
    assert result.returncode == ExitCode.USAGE
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_that_cannot_be_written(config: Path, tmp_path: Path) -> None:
    result = tap(config, "sort", "--save", str(tmp_path / "no" / "f.ndjson"))
    assert result.returncode == ExitCode.FAILED
    assert "cannot write" in result.stderr and "No such file" in result.stderr


def test_a_disk_that_is_full_leaves_whole_messages_and_a_sentence(pipeline: Path, tmp_path: Path) -> None:
    path = tmp_path / "f.ndjson"
    limited = ["sh", "-c", 'ulimit -f 2 && exec "$@"', "sh", *ZPIPE, "tap", "--timeout", "60", str(pipeline), "sort"]
    command = [*limited, "--save", str(path), "--rate", "1000"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert result.returncode == ExitCode.FAILED
    assert result.stderr == f"zpipe: cannot write {path}: File too large; what was saved before is whole\n"
    assert len(load_fixture(path)) > 1
