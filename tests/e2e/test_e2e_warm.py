"""Instances that `zpipe run` forks from a process that has imported zpipe."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from zpipe.supervisor.instance_processes import InstanceProcess, InstanceProcesses


def _output(process: InstanceProcess, processes: InstanceProcesses) -> str:
    os.set_blocking(process.stderr.fileno(), True)
    text = process.stderr.read().decode()  # until it has ended
    process.stderr.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    processes.reap()
    return text


@pytest.fixture(params=[True, False], ids=["forked", "executed"])
def processes(request: pytest.FixtureRequest) -> InstanceProcesses:
    made = InstanceProcesses(warm=request.param)
    request.addfinalizer(made.close)
    return made


def test_an_instance_has_its_arguments_environment_and_exit_code(processes: InstanceProcesses, tmp_path: Path) -> None:
    process = processes.start(["stage", str(tmp_path / "no.toml"), "work"], {**os.environ}, None)
    assert "no.toml" in _output(process, processes)
    assert process.code == 2


def test_instances_start_after_the_fork_server_was_killed() -> None:
    processes = InstanceProcesses(warm=True)
    server = processes._server
    assert server is not None
    os.kill(server.pid, signal.SIGKILL)
    process = processes.start(["stage", "/nowhere/no.toml", "work"], {**os.environ}, None)
    assert "no.toml" in _output(process, processes)
    assert processes._server is None
    processes.close()


def test_an_instance_is_a_session_leader_and_shows_its_own_command(
    processes: InstanceProcesses, tmp_path: Path
) -> None:
    fifo = tmp_path / "config.toml"
    os.mkfifo(fifo)  # it blocks where it reads its config
    process = processes.start(["stage", str(fifo), "work"], {**os.environ}, None)
    with open(fifo, "w"):
        words = Path(f"/proc/{process.pid}/cmdline").read_text().rstrip("\0").split("\0")
        assert words == [sys.executable, "-m", "zpipe", "stage", str(fifo), "work"]
        assert os.getsid(process.pid) == process.pid
    _output(process, processes)


def test_orphans_of_instances_are_reaped() -> None:
    processes = InstanceProcesses(warm=True)
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        orphan = os.fork()
        if orphan:
            os.write(write, orphan.to_bytes(4, "little"))
        os._exit(0)
    os.waitpid(parent, 0)
    orphan = int.from_bytes(os.read(read, 4), "little")
    os.close(read)
    os.close(write)
    os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
    processes.reap()
    with pytest.raises(ChildProcessError):
        os.waitpid(orphan, 0)
    processes.close()
