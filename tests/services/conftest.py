"""The servers, one of each kind for the session, started when the first test needs it; and a pipeline for each test.

What a test has measured (`compare`) is printed at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import needs
import pytest
from network import Network, network
from pipeline import Pipeline
from rows import Comparison
from server import Server, running
from servers import S3, BulkService, MariaDB, PostgreSQL
from spread import HOSTS

FIGURES = "figures"


def of_session(kind: type[Server]) -> Callable[[], Iterator[Server]]:
    def server() -> Iterator[Server]:
        with running(kind) as one:
            yield one

    return pytest.fixture(scope="session", name=f"{kind.__name__.lower()}_of_session")(server)


postgresql_of_session = of_session(PostgreSQL)
mariadb_of_session = of_session(MariaDB)
s3_of_session = of_session(S3)
bulkservice_of_session = of_session(BulkService)


@pytest.fixture
def postgresql(postgresql_of_session: PostgreSQL) -> PostgreSQL:
    """It runs; a test may kill it, and need not start it again. Its tables are the test's to name."""
    postgresql_of_session.start()
    return postgresql_of_session


@pytest.fixture
def mariadb(mariadb_of_session: MariaDB) -> MariaDB:
    mariadb_of_session.start()
    return mariadb_of_session


@pytest.fixture
def s3(s3_of_session: S3) -> S3:
    s3_of_session.start()
    return s3_of_session


@pytest.fixture
def bulk_service(bulkservice_of_session: BulkService) -> BulkService:
    bulkservice_of_session.start()
    return bulkservice_of_session


@pytest.fixture
def make(home: Path) -> Iterator[Callable[..., Pipeline]]:
    """make(config, module=source…): the pipeline of this test."""
    made: list[Pipeline] = []

    def make_one(text: str, **modules: str) -> Pipeline:
        made.append(Pipeline(home, text, **modules))
        return made[-1]

    yield make_one
    for pipeline in made:
        pipeline.kill_all()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What measures time belongs to the stress tests: it says something on a quiet machine only, one test at a time."""
    for item in items:
        if "compare" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.stress)


@pytest.fixture
def compare(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """compare(what, ours, plain): see `rows.Comparison`."""

    def made(what: str, ours: Callable[[], float], plain: Callable[[], float]) -> None:
        comparison = Comparison(what, ours, plain)
        record_property(FIGURES, str(comparison))
        comparison.check()

    return made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, [])]
    figures = [value for report in reports for key, value in getattr(report, "user_properties", []) if key == FIGURES]
    if figures:
        terminalreporter.section("throughput beside a plain script with the same library")
        for line in sorted(set(figures)):
            terminalreporter.write_line(line)


@pytest.fixture
def net(home: Path) -> Iterator[Network]:
    """Three hosts on one switch."""
    needs.skip_without("ip", "network namespaces")
    with network(home) as made:
        made.add(*HOSTS)
        yield made
