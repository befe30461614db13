"""The table of times by folder: what a worker has measured adds up by folder, whichever worker it came from."""

from __future__ import annotations

import pytest
from folder_times import TIMES, FolderTimes, folder


def report(nodeid: str, cpu_s: float, wall_s: float, when: str = "teardown") -> pytest.TestReport:
    times = [(TIMES, (cpu_s, wall_s))]
    return pytest.TestReport(nodeid, ("", 0, ""), {}, "passed", None, when, user_properties=times)  # type: ignore[arg-type]


def test_times_add_up_by_folder_and_the_dearest_comes_first() -> None:
    times = FolderTimes()
    for one in (
        report("tests/cli/test_a.py::test_a", 1.0, 2.0),
        report("tests/core/wire/test_b.py::test_b[x/y]", 2.0, 2.0),
        report("tests/core/test_c.py::test_c", 3.0, 4.0),
        report("tests/core/test_c.py::test_c", 3.0, 4.0, when="call"),
    ):
        times.pytest_runtest_logreport(one)
    assert times.rows() == [("tests/core", 2, 5.0, 6.0), ("tests/cli", 1, 1.0, 2.0), ("all", 3, 6.0, 8.0)]


def test_a_test_of_no_folder_belongs_to_the_tests() -> None:
    assert folder("tests/test_a.py::test_a") == "tests"
