"""What every test stands on: folders of its own, so that none touches the user's runtime or state."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does: nothing here may fail for that.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", **UNTIMED)
settings.register_profile("ci", **UNTIMED, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# A script that starts the tests in the background has it ignored, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

FROM_SYSTEMD = ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC")


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
