"""The wheel, installed into an empty venv: the example that it carries runs away from the checkout, and so does a new plugin."""

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


def test_example_runs_from_the_wheel(
    installed: Installed, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "lib"
    sources.mkdir()
    for n in range(20):
        text = f'def search_{n}(needle):\n    """Looks for a needle in haystack {n}."""\n    return needle\n'
        (sources / f"module_{n}.py").write_text(text)
    database = tmp_path / "index.db"
    monkeypatch.setenv("STDLIB", str(sources))
    monkeypatch.setenv("INDEX_DB", str(database))
    monkeypatch.chdir(tmp_path)
    run = installed_command(installed, ["run", str(installed.config), "--json"], home)
    ledger = run.ledger()
    assert ledger["stages"]["read"]["received"] == 20
    script = str(installed.config.with_name("search.py"))
    found = subprocess.run(
        [installed.python, script, str(database), '"haystack 7"'], capture_output=True, text=True, check=True
    )
    assert "search_7" in found.stdout


def test_commands_of_the_wheel(installed: Installed) -> None:
    zpipe = installed.python.with_name("zpipe")
    shown = subprocess.run([zpipe, "plugins", "--json"], capture_output=True, text=True, cwd="/", check=True)
    assert {plugin["name"] for plugin in json.loads(shown.stdout)["plugins"]} >= {
        "files",
        "generate",
        "python",
        "sqlite",
        "ndjson",
    }


def test_the_version_names_commit_and_python(installed: Installed) -> None:
    """The wheel has a file that says of which commit it is; of a checkout git says it."""
    commit = "[0-9a-f]{12,}(-dirty)?" if (CHECKOUT / ".git").exists() and shutil.which("git") else "unknown"
    expected = rf"zpipe {re.escape(zpipe.__version__)} \(commit {commit}, Python {platform.python_version()}\)\n"
    for python in (installed.python, Path(sys.executable)):
        command = [python, "-m", "zpipe", "--version"]
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


def test_a_new_plugin_is_installed_tested_and_run(installed: Installed, home: Path, tmp_path: Path) -> None:
    make_and_run(installed, "exec", home, tmp_path)  # it has most in its package


@pytest.mark.stress
@pytest.mark.parametrize("kind", PLUGINS)
def test_every_kind_of_new_plugin(installed: Installed, home: Path, tmp_path: Path, kind: str) -> None:
    make_and_run(installed, kind, home, tmp_path)
