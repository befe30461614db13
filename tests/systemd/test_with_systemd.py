"""What the tests of units stand on: a systemd of their own, which has no effect on this machine but in the checkout."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITH_SYSTEMD = Path(__file__).with_name("with-systemd")
SCRIPT = """
cat /proc/1/comm
systemctl is-system-running
systemd-run --quiet --wait --pipe echo from a unit
touch "$1" "$2"
exit 7
"""
pytestmark = pytest.mark.needs("root", "mounts", "systemd", "dbus")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([WITH_SYSTEMD, *words], cwd="/", capture_output=True, text=True, timeout=60, check=False)


def test_a_command_has_a_manager_and_the_checkout_and_nothing_else_is_written() -> None:
    inside = ROOT / "build" / f"with-systemd-{os.getpid()}"
    inside.parent.mkdir(exist_ok=True)
    outside = Path(f"/etc/with-systemd-{os.getpid()}")
    done = run("sh", "-c", SCRIPT, "sh", str(inside), str(outside))
    assert done.stdout.splitlines() == ["systemd", "running", "from a unit"]
    assert done.returncode == 7, done.stderr
    inside.unlink()
    assert not outside.exists()


def test_what_it_was_not_asked_for_is_told() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (125, "usage: with-systemd COMMAND [ARG]...\n")
