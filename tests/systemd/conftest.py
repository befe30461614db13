"""A systemd that these tests may do with as they like: they make a user, write to /etc, start and kill units.

So they run only where that was asked for ($ZPIPE_TEST_SYSTEMD, which `make test-systemd` sets). There, a missing manager is a
failure; elsewhere they are deselected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import CONFIGS, MakePipeline, Pipeline, install_package, run

ASKED = "ZPIPE_TEST_SYSTEMD"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get(ASKED):
        return
    ours = [item for item in items if "manager" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=ours)
    items[:] = [item for item in items if item not in set(ours)]


@pytest.fixture(scope="session")
def manager() -> None:
    """A manager that runs, on a machine that is ours."""
    state = run("systemctl", "is-system-running").stdout.strip()
    assert state in ("running", "degraded"), (
        f"no systemd runs here (systemctl is-system-running says {state or 'nothing'})"
    )
    assert os.geteuid() == 0, "needs root"


@pytest.fixture(scope="session")
def installed(manager: None) -> None:
    """The package, as README.md has an operator install it."""
    install_package()


@pytest.fixture
def make(installed: None) -> Iterator[MakePipeline]:
    """make(name, config, module=source…): a pipeline in /etc/zpipe with its units; not started."""
    made: list[Pipeline] = []

    def make_one(name: str, text: str, **modules: str) -> Pipeline:
        pipeline = Pipeline(name)
        made.append(pipeline)
        pipeline.write(text, **modules)
        return pipeline

    yield make_one
    for pipeline in made:
        pipeline.remove()


@pytest.fixture
def hold(manager: None) -> Iterator[Path]:
    """A file that a test's plugin looks for: it hangs while it is there."""
    path = CONFIGS / "hold"
    yield path
    path.unlink(missing_ok=True)
