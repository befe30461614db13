"""What every test stands on: folders of its own, so that none touches the user's runtime or state."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from folder_times import FolderTimes
from hypothesis import HealthCheck, settings
from missing_needs import MissingNeeds

# How long an example takes depends on what else the machine does: nothing here may fail for that.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", **UNTIMED)
settings.register_profile("ci", **UNTIMED, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# Each worker would rewrite the assertions of all tests anew, which takes 5 s. The tests run with what is set.
dont_write_bytecode = sys.dont_write_bytecode
sys.dont_write_bytecode = False

# A script that starts the tests in the background has it ignored, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

FROM_SYSTEMD = ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(FolderTimes())
    config.pluginmanager.register(MissingNeeds())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: two a core. A test of real processes waits for more than half of its time."""
    return 2 * len(os.sched_getaffinity(0))


def pytest_collection_finish() -> None:
    """What pytest and the modules of tests are made of stays to the end: no collection of garbage has to look at it."""
    sys.dont_write_bytecode = dont_write_bytecode
    gc.collect()
    gc.freeze()


@contextmanager
def short_folders(patch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for runtime (r) and state (s) whose path leaves room for an ipc address; pytest's own are too long."""
    with tempfile.TemporaryDirectory(prefix="zp-", ignore_cleanup_errors=True) as folder:
        patch.setenv("ZPIPE_RUNTIME_DIR", f"{folder}/r")
        patch.setenv("ZPIPE_STATE_DIR", f"{folder}/s")
        yield Path(folder)


@pytest.fixture(autouse=True, scope="session")
def _no_test_outside_its_folders() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, short_folders(patch):
        for name in FROM_SYSTEMD:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This test's own runtime (r) and state (s) folders; processes it starts inherit them."""
    with short_folders(monkeypatch) as folder:
        yield folder
