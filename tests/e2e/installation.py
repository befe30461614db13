"""zpipe as a user has it: the wheel, in a venv of its own. Tests that need the package index are skipped without one."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import needs
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
        needs.skip_for("package index", detail=done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr


@contextmanager
def wheel_installed() -> Iterator[Installed]:
    """The wheel of this checkout in an empty venv, which is gone afterwards."""
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


def installed_command(installed: Installed, arguments: list[str], home: Path) -> Command:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return Command(arguments, home, env, python=str(installed.python))
