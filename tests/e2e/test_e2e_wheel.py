"""The wheel, installed into an empty venv: the example that it carries runs away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from pipeline import Command

CHECKOUT = Path(__file__).parents[2]
NO_INDEX = ("Could not find a version", "No matching distribution", "Connection", "connection", "Temporary failure")


@dataclass
class Installed:
    python: Path
    config: Path


def pip(python: Path | str, *arguments: str) -> None:
    """Skips the test where there is no index to be reached."""
    command = [str(python), "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=110)
    if done.returncode and any(sign in done.stderr for sign in NO_INDEX):
        pytest.skip(f"pip reaches no package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def installed() -> Iterator[Installed]:
    with TemporaryDirectory(prefix="zp-wheel-") as folder:
        wheels = Path(folder) / "wheels"
        pip(sys.executable, "wheel", str(CHECKOUT), "--no-deps", "--wheel-dir", str(wheels))
        (wheel,) = wheels.glob("*.whl")
        home = Path(folder) / "venv"
        venv.create(home, with_pip=True)
        python = home / "bin" / "python"
        pip(python, "install", str(wheel))
        where = "import zpipe, pathlib; print(pathlib.Path(zpipe.__file__).parent)"
        package = subprocess.run(
            [python, "-I", "-c", where], capture_output=True, text=True, cwd="/", check=True
        ).stdout
        assert package.startswith(str(home)), "it is the installed one"
        yield Installed(python, Path(package.strip()) / "examples" / "index.toml")


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


def installed_command(installed: Installed, arguments: list[str], home: Path) -> Command:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return Command(arguments, home, env, python=str(installed.python))


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
