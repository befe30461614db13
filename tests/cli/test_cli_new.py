"""`zpipe new`: what it writes works at once, in each kind, as a package and as a single file."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cli_types import Call

from zpipe.errors import DISTRIBUTION, ExitCode
from zpipe.scaffold.plugin_files import PLUGINS

KINDS = list(PLUGINS)


def run_tests(folder: Path, *arguments: str) -> str:
    """The output of pytest on what was written."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), *arguments]
    done = subprocess.run([*command, str(folder)], cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tests_of_every_kind_pass_at_once(call: Call, tmp_path: Path) -> None:
    for kind in KINDS:
        assert call("new", f"one-{kind}", "--kind", kind, "--single-file").return_value == ExitCode.DONE
    for kind in ("sink", "exec"):
        assert call("new", f"my-{kind}", "--kind", kind).return_value == ExitCode.DONE
    tests = sum(path.read_text().count("\ndef test_") for path in tmp_path.rglob("test_*.py"))
    assert tests == 2 * len(KINDS) - 1 + 2 * 2
    assert f"{tests} passed" in run_tests(tmp_path, "-o", "pythonpath=my-sink my-exec")


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_that_runs_it(call: Call, tmp_path: Path, kind: str) -> None:
    made = json.loads(call("new", "thing", "--kind", kind, "--single-file", "--json").stdout)
    assert made == {"name": "thing", "kind": kind, "files": ["thing.py", "test_thing.py", "thing.toml"]}
    checked = call("check", "thing.toml")
    assert checked.return_value == ExitCode.DONE and "warning" not in checked.stdout, checked.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_has_an_entry_point(call: Call, tmp_path: Path, kind: str) -> None:
    lines = call("new", "my-thing", "--kind", kind).stdout.splitlines()
    assert sorted(lines) == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    project = tomllib.loads((tmp_path / "my-thing" / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["zpipe.plugins"] == {"my-thing": "my_thing:Plugin"}
    assert project["project"]["dependencies"] == [DISTRIBUTION]
    config = tomllib.loads((tmp_path / "my-thing" / "my_thing.toml").read_text())
    assert config["stages"]["my_thing"]["plugin"] == "my-thing"
    assert not any("@" in path.read_text() for path in tmp_path.rglob("*.md")), "every name is filled in"


def test_it_runs_in_real_daemons(call: Call, home: Path, tmp_path: Path) -> None:
    call("new", "shout", "--single-file")
    command = [sys.executable, "-m", "zpipe", "run", "shout.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()[:5]] == ["HELLO"] * 5


def test_nothing_is_overwritten(call: Call, tmp_path: Path) -> None:
    (tmp_path / "thing.toml").write_text("mine")
    refused = call("new", "thing", "--single-file")
    assert "thing.toml already: nothing was written" in str(refused.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["thing.toml"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Thing", "small letters"),
        ("a--b", "single '-'"),
        ("../x", "letters"),
        ("json", "of Python"),
        ("class", "of Python"),
        ("zpipe", "of a module that is installed"),
        ("pytest", "of a module that is installed"),
        ("exec", "there is a plugin 'exec' already"),
    ],
)
def test_names_that_will_not_do(call: Call, name: str, said: str) -> None:
    refused = call("new", name)
    assert said in str(refused.exception) and refused.exception.exit_code == ExitCode.USAGE  # type: ignore[union-attr]
