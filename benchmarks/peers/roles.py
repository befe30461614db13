"""Processes of a peer that is written in Python: each runs one role of the peer's module, such as "source".

Does not belong here: what a role does.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.payloads import BY_NAME
from benchmarks.processes import end
from benchmarks.tally import Tally
from benchmarks.window import Load

ROOT = Path(__file__).parents[2]
Role = Callable[..., None]
"""Called with the folder of the run, the load, and what `start` was given by name."""


class RoleProcesses:
    """Processes of one run in a folder of their own; the sink notes in `tally`."""

    def __init__(self, module: str, folder: Path, load: Load) -> None:
        self.folder = folder
        self.tally = Tally.create(folder / "tally")
        self._module = module
        self._load = load
        self._processes: list[tuple[str, subprocess.Popen[str]]] = []

    def start(self, role: str, group: str = "", **more: Any) -> None:
        """`group` is what the process is measured as, if not as its role."""
        arguments = json.dumps({"payload": self._load.payload.name, "rate": self._load.rate, **more})
        command = [sys.executable, "-m", self._module, role, str(self.folder), arguments]
        with (self.folder / "errors").open("a") as errors:
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors, text=True)
        self._processes.append((group or role, process))

    def pids(self) -> Mapping[str, Sequence[int]]:
        found: dict[str, list[int]] = {}
        for group, process in self._processes:
            found.setdefault(group, []).append(process.pid)
        return found

    def check(self) -> None:
        for group, process in self._processes:
            if process.poll() is not None:
                errors = (self.folder / "errors").read_text()
                raise RuntimeError(f"{self._module}: the {group} ended with {process.returncode}:\n{errors[-2000:]}")

    def end(self) -> None:
        for _, process in self._processes:
            process.terminate()
        for _, process in self._processes:
            end(process)


@contextmanager
def role_processes(module: str, load: Load) -> Iterator[RoleProcesses]:
    with folder() as path:
        processes = RoleProcesses(module, path, load)
        try:
            yield processes
        finally:
            processes.end()


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder with a short name, since the path of a Unix socket is limited to 107 characters."""
    path = Path(tempfile.mkdtemp(prefix="zb-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def messages(load: Load) -> Iterator[dict[str, Any]]:
    """What a source sends. At a rate, each message has the time at which it was made as its "origin"."""
    constant = load.payload.constant()
    if load.rate is None:
        n = 0
        while True:
            yield {"id": n, **constant}
            n += 1
    for n in paced(load.rate):
        yield {"id": n, **constant, "origin": time.time()}


def paced(rate: float) -> Iterator[int]:
    """Numbers from 0, each when it is due, or late if the one before took too long."""
    start, n = time.monotonic(), 0
    while True:
        ahead = start + n / rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        yield n
        n += 1


def sink(path: Path, load: Load) -> Callable[[dict[str, Any]], None]:
    """What a sink calls with each message."""
    tally, stride, timed = Tally(path / "tally"), load.stride, load.rate is not None
    seen = 0

    def take(payload: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1
        if not seen % stride:
            tally.note(seen, time.time() - payload["origin"] if timed else None)

    return take


def main(roles: Mapping[str, Role]) -> None:
    """The main program of a peer's module."""
    role, path, arguments = sys.argv[1:]
    more = json.loads(arguments)
    load = Load(BY_NAME[more.pop("payload")], more.pop("rate"))
    roles[role](Path(path), load, **more)
