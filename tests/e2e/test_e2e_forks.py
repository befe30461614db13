"""Plugins that fork helpers, or open the lock of their instance: what the daemon holds is its own, and gone with it, whatever
lives on; signals find their process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from e2e_types import MakePipeline
from pipeline import Command, Pipeline, ids, send, wait_until
from ports import free_ports

from zpipe.runtime import locks

CONFIG = """
[pipeline]
name = "p"

[security]
insecure = true

[stages.read]
plugin = "generate"
options = {{ {count}rate = 500 }}

[stages.work]
input = "read"
plugin = "python"
workers = {{ kind = "{kind}" }}
options = {{ function = "work.py:work" }}
{listen}

[stages.store]
input = "work"
plugin = "sqlite"
batch = {{ messages = 100, timeout = "50ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""
WORK = """
import ctypes
import os
import signal
from pathlib import Path

HELPER = Path(__file__).with_name("helper")


def python():
    if (pid := os.fork()) == 0:
        while True:
            signal.pause()
    return pid


def c():
    libc = ctypes.PyDLL(None)
    if (pid := libc.fork()) == 0:
        while True:
            libc.pause()
    return pid


def work(payload):
    if not HELPER.exists():
        part = HELPER.with_suffix(".part")
        part.write_text(f"{os.getpid()} {%s()}")
        part.replace(HELPER)
    return payload
"""


@contextmanager
def helper(pipeline: Pipeline, run: Command) -> Iterator[tuple[int, int]]:
    """(the pid of the process that forked, of the helper), once there is one; it is gone after this."""
    path = pipeline.folder / "helper"
    wait_until(lambda: path.exists() or not run.running, "the plugin has forked a helper")
    forker, pid = map(int, path.read_text().split())
    try:
        yield forker, pid
    finally:
        send(pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    """Whether there is such a process that is not a zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize(("how", "address"), [("python", "ipc"), ("python", "tcp"), ("c", "ipc")])
def test_a_helper_that_outlives_its_daemon_keeps_neither_lock_nor_address(
    make: MakePipeline, how: str, address: str
) -> None:
    """`c`: forked by a library, so that nothing of Python runs in the child."""
    listen = f'listen = ["tcp://127.0.0.1:{free_ports(1)[0]}"]' if address == "tcp" else ""
    pipeline = make(CONFIG.format(count="count = 1500, ", kind="thread", listen=listen), work=WORK % how)
    run = pipeline.run()
    with helper(pipeline, run) as (daemon, pid):
        send(daemon, signal.SIGKILL)
        ledger = run.ledger()
        assert lives(pid)
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(1500))
    assert ledger["stages"]["work"]["restarts"] == 1, run.stderr
    assert "running already" not in run.stderr


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_signal_for_a_helper_ends_the_helper_and_nothing_else(make: MakePipeline, kind: str) -> None:
    pipeline = make(CONFIG.format(count="", kind=kind, listen=""), work=WORK % "python")
    run = pipeline.run()
    with helper(pipeline, run) as (_, pid):
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not lives(pid), "the helper is gone")
        assert "event=leaving" not in run.stderr
        run.interrupt()
        ledger = run.ledger()
    assert ledger["stages"]["work"]["restarts"] == 0, run.stderr


def test_a_plugin_that_reads_the_lock_does_not_free_its_instance(make: MakePipeline) -> None:
    """A record lock is lost when its process closes any descriptor of the file."""
    reader = """
import os
from pathlib import Path

LOCK = Path(os.environ["ZPIPE_RUNTIME_DIR"]) / "p.work.1" / "lock"
READ = Path(__file__).with_name("read")


def work(payload):
    if not READ.exists():
        assert LOCK.read_text().startswith(str(os.getpid()))
        READ.touch()
    return payload
"""
    pipeline = make(CONFIG.format(count="", kind="thread", listen=""), work=reader)
    run = pipeline.run()
    wait_until(lambda: (pipeline.folder / "read").exists() or not run.running, "the plugin has read the lock")
    lock = pipeline.home / "r" / "p.work.1" / "lock"
    wait_until(lambda: locks.is_locked(lock) or not run.running, "the instance has its lock again")
    second = pipeline.stage("work")
    assert second.wait() == 1 and "p.work.1 is running already" in second.stderr
    run.interrupt()
    assert run.ledger()["balanced"]
