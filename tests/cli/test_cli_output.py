"""What commands print has nowhere to go: the reader has left, the disk is full."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from cli_samples import CONFIG

from zpipe.errors import ExitCode

ZPIPE = (sys.executable, "-m", "zpipe")
DEADLINE_S = 60.0
SMALL = 2000
"""Bytes that a file may have: a disk that is nearly full."""


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))


@pytest.mark.parametrize("command", [["plugins"], ["--help"], ["monitor", "--help"]])
def test_a_full_disk_is_said_in_words(command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run([*ZPIPE, *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_S)
    assert result.returncode == ExitCode.FAILED
    assert result.stderr == "zpipe: cannot write the output: No space left on device\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["run", "not-there.toml"], ExitCode.USAGE),
        (["check", "--no-such-option"], ExitCode.USAGE),
        (["plugins"], ExitCode.FAILED),
    ],
)
def test_an_exit_code_stands_where_no_words_can_be_written(command: list[str], code: ExitCode) -> None:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        result = subprocess.run([*ZPIPE, *command], stdout=full, stderr=full, env=env, timeout=DEADLINE_S)
    assert result.returncode == code


@pytest.mark.parametrize("command", [["plugins"], ["--help"]])
def test_a_reader_that_goes_away_is_no_fault(command: list[str]) -> None:
    with subprocess.Popen([*ZPIPE, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(DEADLINE_S) == ExitCode.DONE


def test_characters_that_the_locale_does_not_have_are_written_otherwise(home: Path) -> None:
    path = home / "\u707d.toml"
    path.write_text(CONFIG)
    env = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    command = [*ZPIPE, "check", str(path)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (result.returncode, result.stderr) == (ExitCode.DONE, "")
    assert "\\u707d.toml" in result.stdout


@pytest.mark.parametrize(
    ("command", "options", "more"),
    [
        ("monitor", ["--json", "--timeout", "30", "--record", "FILE"], ""),
        ("monitor", ["--json", "--timeout", "30", "--record", "FILE.gz"], ""),
        ("tap", ["sink", "--rate", "100", "--timeout", "30", "--save", "FILE"], "; what was saved before is whole"),
    ],
)
def test_a_disk_that_fills_under_what_is_kept_is_named(home: Path, command: str, options: list[str], more: str) -> None:
    path = home / "watched.toml"
    path.write_text(CONFIG)
    stages = [
        subprocess.Popen([*ZPIPE, "stage", str(path), stage], stderr=subprocess.DEVNULL) for stage in ("sink", "make")
    ]
    try:
        given = [str(home / one) if one.startswith("FILE") else one for one in options]
        result = subprocess.run(
            [*ZPIPE, command, str(path), *given],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DEADLINE_S,
            preexec_fn=small_files,
        )
    finally:
        for stage in stages:
            stage.kill()
            stage.wait()
    assert result.returncode == ExitCode.FAILED, result.stderr
    assert result.stderr == f"zpipe: cannot write {given[-1]}: File too large{more}\n"
