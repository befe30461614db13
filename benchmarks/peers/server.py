"""A server that a peer needs: started on a private port with its files in the run's folder, stopped after the run.

Does not belong here: what its clients do.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.benchmark import Unavailable
from benchmarks.peers.roles import RoleProcesses
from benchmarks.processes import end, wait_until, with_descendants
from zpipe.errors import install_command

START_S = 90.0


def require(program: str, package: str, module: str, *places: str) -> str:
    """The path of the server's program. Raises Unavailable if it or the client library is not installed."""
    if importlib.util.find_spec(module) is None:
        raise Unavailable(f"no Python module {module} ({install_command('bench')})")
    found = next((place for place in places if os.access(place, os.X_OK)), None) or shutil.which(program)
    if found is None:
        raise Unavailable(f"no {program} (on Debian: apt install {package})")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(command: Sequence[str], folder: Path, port: int, env: Mapping[str, str] | None = None) -> Iterator[int]:
    """The pid of the server, once it answers on the port."""
    with (folder / "server").open("w") as log:
        process = subprocess.Popen(
            command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True
        )

    def answers() -> bool:
        if process.poll() is not None:
            log_text = (folder / "server").read_text()
            raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{log_text[-2000:]}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    try:
        wait_until(answers, f"{command[0]} answers on port {port}", START_S, poll_s=0.05)
        yield process.pid
    finally:
        end(process, grace_s=30)


class Served:
    """The processes of a peer, with its server among them: its CPU counts, but not as a stage's."""

    def __init__(self, processes: RoleProcesses, server: int) -> None:
        self._processes = processes
        self._server = server
        self.tally = processes.tally

    def pids(self) -> Mapping[str, Sequence[int]]:
        return {**self._processes.pids(), "server": with_descendants([self._server])}

    def check(self) -> None:
        self._processes.check()
