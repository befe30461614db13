"""The needs of tests: what is not there has tests skipped, or fail where nothing may be skipped, and says how to get it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import needs
import pytest
from missing_needs import MISSING, MissingNeeds

TESTS = Path(__file__).parent


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
