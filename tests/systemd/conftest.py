"""A systemd that these tests may do with as they like: they make a user, write to /etc, start and kill units.

So they run only where that was asked for ($ZPIPE_TEST_SYSTEMD, which `make test-systemd` sets); there, a missing manager is a
failure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machine import CONFIGS, ROOT, Pipeline, run, shell

ASKED = "ZPIPE_TEST_SYSTEMD"
MakePipeline = Callable[..., Pipeline]


def blocks(section: str) -> list[str]:
    """The shell blocks of a section of systemd/README.md."""
    return re.findall(r"^```sh\n(.*?)^```", sections()[section], re.MULTILINE | re.DOTALL)


def sections() -> dict[str, str]:
    """By heading, in the order of the page."""
    text = (ROOT / "systemd" / "README.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture(scope="session")
def manager() -> None:
    """A manager that runs, on a machine that is ours."""
    if not os.environ.get(ASKED):
        pytest.skip(f"needs a running systemd to change at will: make test-systemd (which sets ${ASKED})")
    state = run("systemctl", "is-system-running").stdout.strip()
    assert state in ("running", "degraded"), (
        f"no systemd runs here (systemctl is-system-running says {state or 'nothing'})"
    )
    assert os.geteuid() == 0, "needs root"


@pytest.fixture(scope="session")
def installed(manager: None) -> None:
    """zpipe in /opt/zpipe, its user and folders, as README.md has an operator do it."""
    for block in blocks("Install"):
        shell(block, deadline_s=120)


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
