"""How long the tests of each folder took: a table at the end of a run of several folders, also of one by several workers.

cpu   of the tests and of the processes that they have waited for: what a busy machine changes least
wall  from the start of a test to its end, which is mostly waiting for processes; workers run beside each other
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Generator
from pathlib import PurePosixPath

import pytest

TIMES = "times"
Times = tuple[float, float]
_began = pytest.StashKey[Times]()


def now() -> Times:
    """(cpu, wall) in seconds."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system, time.monotonic()


def folder(nodeid: str) -> str:
    return "/".join(PurePosixPath(nodeid.partition("::")[0]).parent.parts[:2])


class FolderTimes:
    """A plugin. What a worker measures reaches the process that prints with the report on a test's teardown."""

    def __init__(self) -> None:
        self.times: dict[str, list[Times]] = defaultdict(list)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        item.stash[_began] = now()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "teardown":
            cpu, wall = (end - start for start, end in zip(item.stash[_began], now(), strict=True))
            report.user_properties.append((TIMES, (cpu, wall)))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == TIMES and report.when == "teardown":
                self.times[folder(report.nodeid)].append((value[0], value[1]))  # type: ignore[index]

    def rows(self) -> list[tuple[str, int, float, float]]:
        """(folder, tests, cpu, wall), the dearest first, and their sums last."""
        rows = [
            (name, len(times), sum(cpu for cpu, _ in times), sum(wall for _, wall in times))
            for name, times in self.times.items()
        ]
        rows.sort(key=lambda row: -row[2])
        _, tests, cpu, wall = zip(*rows, strict=True)
        return [*rows, ("all", sum(tests), sum(cpu), sum(wall))]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if len(self.times) > 1:
            terminalreporter.section("times by folder")
            for name, tests, cpu, wall in self.rows():
                terminalreporter.write_line(f"{name:20} {tests:5} tests {cpu:7.1f} s cpu {wall:7.1f} s wall")
