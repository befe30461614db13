from __future__ import annotations

import signal
import subprocess

import pytest

from zpipe.supervisor.children import ChildDeath


@pytest.mark.parametrize(
    ("number", "how"),
    [(signal.SIGSEGV, "killed by SIGSEGV"), (signal.SIGRTMIN + 6, f"killed by signal {signal.SIGRTMIN + 6}")],
)
def test_how_a_child_died_is_said_for_every_signal(number: int, how: str) -> None:
    child = subprocess.Popen(["sleep", "60"])
    child.send_signal(number)
    assert str(ChildDeath(child.wait(30.0))) == how
