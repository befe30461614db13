"""Locks: who is seen to hold one, and that nothing but the end of its process takes it away."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from zpipe.errors import OperatorError
from zpipe.runtime import locks
from zpipe.runtime.locks import InstanceLock, RunLock

HOLD = """
import sys
from pathlib import Path
from zpipe.runtime import locks

print(locks.take(Path(sys.argv[1])) is not None, flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(path: Path) -> Iterator[tuple[subprocess.Popen[str], bool]]:
    """One that has tried to take the lock, and whether it has it."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline() == "True\n"
        process.kill()


def test_a_lock_names_its_holder_and_is_free_when_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert locks.holder(path) is None
    with another_process(path) as (process, taken):
        assert taken and locks.is_locked(path) and locks.holder(path) == process.pid
        assert locks.take(path) is None
        process.kill()
        process.wait()
        assert locks.holder(path) is None
    fd = locks.take(path)
    assert fd is not None
    locks.release(fd)


def test_to_look_at_the_own_lock_does_not_lose_it(tmp_path: Path) -> None:
    """A record lock goes when its process closes any descriptor of the file."""
    lock = InstanceLock(tmp_path / "p.work.1", "p.work.1")
    path = tmp_path / "p.work.1" / "lock"
    assert locks.is_locked(path) and locks.holder(path) == os.getpid()
    assert locks.read(path) == f"{os.getpid()}\n"
    with pytest.raises(OperatorError, match=f"running already .pid {os.getpid()}"):
        InstanceLock(tmp_path / "p.work.1", "p.work.1")
    with another_process(path) as (_, taken):
        assert not taken
    lock.release()
    assert not locks.is_locked(path)


def test_an_instance_takes_its_lock_again_or_hears_who_has_it(tmp_path: Path) -> None:
    """A plugin in the same process may read any file, the lock's too."""
    lock = InstanceLock(tmp_path / "p.work.1", "p.work.1")
    path = tmp_path / "p.work.1" / "lock"
    lock.keep()
    path.read_text()
    lock.keep()
    with another_process(path) as (_, taken):
        assert not taken
    path.read_text()
    with another_process(path) as (process, taken):
        assert taken
        with pytest.raises(OperatorError, match=f"p.work.1 has lost its lock to pid {process.pid}"):
            lock.keep()
    lock.release()


def test_a_forked_child_neither_has_the_lock_nor_takes_it_away(tmp_path: Path) -> None:
    lock = RunLock(tmp_path, "p")
    path = tmp_path / "p.run"
    if (child := os.fork()) == 0:
        for fd in range(3, 256):
            os.close(fd) if os.path.exists(f"/proc/self/fd/{fd}") else None
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with another_process(path) as (_, taken):
        assert not taken
    lock.release()
