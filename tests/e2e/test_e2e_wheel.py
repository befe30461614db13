"""zpipe as it is installed: the version that it names, and every kind of new plugin beside a wheel (stress)."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from installation import CHECKOUT, Installed, installed_command, pip

import zpipe
from zpipe.scaffold.plugin_files import PLUGINS


def test_the_version_names_commit_and_python() -> None:
    """The wheel has a file that says of which commit it is (`make dist`); of a checkout git says it."""
    commit = "[0-9a-f]{12,}(-dirty)?" if (CHECKOUT / ".git").exists() and shutil.which("git") else "unknown"
    expected = rf"zpipe {re.escape(zpipe.__version__)} \(commit {commit}, Python {platform.python_version()}\)\n"
    command = [sys.executable, "-m", "zpipe", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True).stdout
    assert re.fullmatch(expected, said), said


def make_and_run(installed: Installed, kind: str, home: Path, tmp_path: Path) -> None:
    """What the README of a new package says: made, installed, tested, listed and run."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}

    def call(*arguments: str, folder: Path = tmp_path) -> str:
        command = [str(installed.python), "-m", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    name, folder = f"my-{kind}", tmp_path / f"my-{kind}"
    call("zpipe", "new", name, "--kind", kind)
    pip(installed.python, "install", str(folder))  # what it needs of zpipe is there: nothing else is fetched for it
    pip(installed.python, "install", "pytest")
    assert "passed" in call("pytest", "-q", folder=folder)
    listed = {row["name"] for row in json.loads(call("zpipe", "plugins", "--json"))["plugins"] if row["error"] is None}
    assert name in listed
    command = installed_command(installed, ["run", str(folder / f"my_{kind}.toml"), "--json"], home)
    command.ledger()


@pytest.mark.stress
@pytest.mark.parametrize("kind", PLUGINS)
def test_every_kind_of_new_plugin(installed: Installed, home: Path, tmp_path: Path, kind: str) -> None:
    make_and_run(installed, kind, home, tmp_path)
