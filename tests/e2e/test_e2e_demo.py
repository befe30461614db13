"""`zpipe demo`: the first minute of somebody who has zpipe and nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline import Command

from zpipe.config import load
from zpipe.errors import ExitCode

RunDemo = Callable[..., Command]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder that is read in place of the standard library."""
    folder = tmp_path / "lib"
    folder.mkdir()
    for n in range(10):
        (folder / f"module_{n}.py").write_text(f'def search_{n}(needle):\n    """Looks in haystack {n}."""\n')
    return folder


@pytest.fixture
def demo(sources: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDemo:
    """demo(arguments…): `zpipe demo` in tmp_path, which has ended."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, python: str = sys.executable) -> Command:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        command = Command(["demo", *arguments], home, env | {"STDLIB": str(sources)}, python=python)
        command.wait()
        return command

    return run


def test_it_answers_and_ends_with_where_how_and_what_next(demo: RunDemo, home: Path, tmp_path: Path) -> None:
    command = demo("haystack 7")
    assert command.process.returncode == ExitCode.DONE, command.stderr
    config = tmp_path / "zpipe-demo" / "index.toml"
    answer, last = command.stdout.strip().rsplit("\n\n", 1)
    assert "the ledger balances" in answer and "function search_7(needle)" in answer
    where, how, then = last.splitlines()
    assert where.split()[-1] == str(config)
    assert f" monitor {config} " in how and how.startswith("while it runs:")
    assert " demo 'read file'" in then and " new loud --single-file" in then
    assert f"monitor {config}\n" in command.stderr, "it is also said while it can be used"
    assert not list((home / "s").glob("*")), "what the stages keep is in the folder, too"
    assert load(config, env={}).stages["read"].options.paths, "the copy needs no variable"


def test_files_that_are_there_run_as_they_are(demo: RunDemo, sources: Path, tmp_path: Path) -> None:
    demo()
    config = tmp_path / "zpipe-demo" / "index.toml"
    changed = config.read_text().replace("instances = 2", "instances = 1") + "# mine\n"
    config.write_text(changed)
    for path in sources.iterdir():
        path.write_text("def other(): pass\n")
    again = demo("other")
    assert again.process.returncode == ExitCode.DONE and config.read_text() == changed
    assert "function other()" in again.stdout
    none = demo("search_7")
    assert none.process.returncode == ExitCode.FAILED and "nothing found for 'search_7'" in none.stderr
    assert len(none.stdout.strip().rsplit("\n\n", 1)[1].splitlines()) == 3


def test_a_folder_that_cannot_be_made_is_said(demo: RunDemo, tmp_path: Path) -> None:
    (tmp_path / "zpipe-demo").write_text("")
    command = demo()
    assert command.process.returncode == ExitCode.FAILED
    assert command.stderr == (
        f"zpipe: cannot write {tmp_path / 'zpipe-demo'}: File exists; is its folder writable, and is there room on its disk?\n"
    )
