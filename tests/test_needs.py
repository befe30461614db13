"""The needs of tests: what is not there has tests skipped, or fail where nothing may be skipped, and says how to get it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import needs
import pytest
from missing_needs import MISSING, MissingNeeds

TESTS = Path(__file__).parent
BARE_MACHINE = """
import sys
import needs, pytest
looked_for = needs.is_there
needs.is_there = lambda name: bool(needs.NEEDS[name].package) and looked_for(name)
sys.exit(pytest.main(sys.argv[1:]))
"""
"""Runs tests where nobody has privileges; programs are looked for."""


def test_a_test_is_skipped_for_lack_of_something_in_the_table_only() -> None:
    skips = re.compile(r"\bskipif\b|\bpytest\.skip\b|\bimportorskip\b")
    others = [path for path in TESTS.rglob("*.py") if path.name != "needs.py" and path != Path(__file__)]
    assert [str(path) for path in others if skips.search(path.read_text(encoding="utf-8"))] == []


def test_every_need_says_how_to_get_it() -> None:
    assert [name for name, need in needs.NEEDS.items() if not need.cure] == []


@pytest.fixture
def lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has nothing but jq."""
    monkeypatch.setattr(needs, "is_there", lambda name: name == "jq")


@pytest.mark.usefixtures("lacks")
def test_all_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(needs.ALL, raising=False)
    with pytest.raises(pytest.skip.Exception) as skipped:
        needs.skip_without("tmux", "jq", "root")
    assert str(skipped.value) == "needs tmux, root (apt install tmux, as root)"
    assert skipped.value.missing_needs == ("tmux", "root")  # type: ignore[attr-defined]


@pytest.mark.usefixtures("lacks")
def test_where_nothing_may_be_skipped_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(needs.ALL, "1")
    with pytest.raises(pytest.fail.Exception, match=r"^needs tmux \(apt install tmux\)$"):
        needs.skip_without("tmux", "jq")


def report(*missing: str, outcome: str = "skipped") -> pytest.TestReport:
    found = [(MISSING, name) for name in missing]
    return pytest.TestReport("t", ("", 0, ""), {}, outcome, None, "setup", user_properties=found)  # type: ignore[arg-type]


def test_the_last_lines_have_one_for_each_need() -> None:
    plugin = MissingNeeds()
    for one in (report("tmux"), report("node", "jq"), report("jq"), report(), report("jq", outcome="passed")):
        plugin.pytest_runtest_logreport(one)
    assert [row.split(maxsplit=3) for row in plugin.rows()] == [
        ["jq", "2", "tests", "apt install jq"],
        ["node", "1", "test", "apt install nodejs"],
        ["tmux", "1", "test", "apt install tmux"],
    ]


def test_the_packages_are_listed_by_a_python_without_anything(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", str(TESTS / "needs.py")]
    listed = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True)
    packages = {need.package for need in needs.NEEDS.values()}
    assert {"tmux", "libzmq3-dev", "prometheus"} <= set(listed.stdout.splitlines()) <= packages


def test_the_programs_that_are_here_are_listed_behind_their_packages(tmp_path: Path) -> None:
    """Each that a test may find: all names, and all places."""
    for name in ("tmux", "chromium", "google-chrome", "unknown"):
        (tmp_path / name).touch(mode=0o755)
    command = [sys.executable, "-I", "-S", str(TESTS / "needs.py"), "--programs"]
    listed = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert [line for line in listed.stdout.splitlines() if str(tmp_path) in line] == [
        f"chromium-headless-shell {tmp_path}/chromium",
        f"chromium-headless-shell {tmp_path}/google-chrome",
        f"tmux {tmp_path}/tmux",
    ]


def outcomes(folder: Path, *arguments: str | Path, **programs: str) -> tuple[dict[str, int], str]:
    """({"skipped": 3, …}, all that is said) of a run whose PATH has these scripts and nothing else."""
    path = folder / "bin"
    path.mkdir()
    for name, script in programs.items():
        (path / name).write_text(f"#!/bin/sh\n{script}\n")
        (path / name).chmod(0o755)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "ZPIPE_"))}
    env |= {"PATH": str(path), "PYTHONPATH": str(TESTS)}
    words = ["-p", "no:xdist", "-p", "no:cacheprovider", "-q", *map(str, arguments)]
    command = [sys.executable, "-c", BARE_MACHINE, *words]
    ran = subprocess.run(command, env=env, cwd=TESTS.parent, capture_output=True, text=True, timeout=100, check=False)
    counts = ran.stdout.rstrip().rpartition("\n")[2]
    return {what: int(count) for count, what in re.findall(r"(\d+) (\w+)", counts.partition(" in ")[0])}, ran.stdout


def test_on_a_machine_without_anything_each_marked_test_is_skipped(tmp_path: Path) -> None:
    marked = [path for path in TESTS.rglob("test_*.py") if "mark.needs(" in path.read_text(encoding="utf-8")]
    files = [path for path in marked if path != Path(__file__) and "services" not in path.parts]
    found, said = outcomes(tmp_path, "-m", "needs", *files)
    assert found.keys() == {"skipped", "deselected"} and found["skipped"] > 50, said
    assert re.search(r"^tmux +\d+ tests +apt install tmux$", said, re.MULTILINE), said


def test_without_headers_no_example_in_c_is_built(tmp_path: Path) -> None:
    found, said = outcomes(tmp_path, TESTS / "e2e" / "test_e2e_c.py", gcc="exit 1", make="exit 1")
    assert found.keys() == {"skipped"}, said
    assert "needs zmq.h, cbor.h (" in said, said
