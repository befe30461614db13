"""Skips tests whose needs (`needs.py`) are not there. The last lines of the run say how many for what, and how to get it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator

import needs
import pytest

MISSING = "missing need"


class MissingNeeds:
    """A plugin. What a worker skips reaches the process that prints with the test's report."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        names = dict.fromkeys(name for mark in item.iter_markers("needs") for name in mark.args)
        needs.skip_without(*names)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        missing = getattr(call.excinfo.value, "missing_needs", ()) if call.excinfo else ()
        report.user_properties.extend((MISSING, name) for name in missing)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self.skipped.update(str(value) for name, value in report.user_properties if name == MISSING)

    def rows(self) -> list[str]:
        """A line for each need, that of most tests first."""
        return [
            f"{name:20} {count:4} {'test ' if count == 1 else 'tests'}   {needs.NEEDS[name].cure}"
            for name, count in sorted(self.skipped.items(), key=lambda one: (-one[1], one[0]))
        ]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
        yield
        if self.skipped:
            terminalreporter.section(f"skipped for lack of something ({needs.ALL}=1 has them fail)")
            for row in self.rows():
                terminalreporter.write_line(row)
