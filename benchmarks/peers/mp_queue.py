"""`multiprocessing.Queue` of the standard library: two of them between three processes, pickled, bounded, without acks."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers import roles
from benchmarks.touch import touch
from benchmarks.window import Load, Running

BOUND = 4096
"""As many as zpipe's queue holds by default."""


class MultiprocessingQueue:
    name = "multiprocessing.Queue"

    @contextmanager
    def running(self, load: Load) -> Iterator[Running]:
        with roles.role_processes("benchmarks.peers.mp_queue", load) as processes:
            processes.start("all")
            yield _Three(processes)


class _Three:
    """The three are children of one process, in this order, which does nothing but wait for them."""

    def __init__(self, processes: roles.RoleProcesses) -> None:
        self._processes = processes
        self.tally = processes.tally

    def pids(self) -> dict[str, list[int]]:
        path = self._processes.folder / "pids"
        source, middle, sink = map(int, path.read_text().split())
        return {"source": [source], "map": [middle], "sink": [sink]}

    def check(self) -> None:
        self._processes.check()


def run_all(folder: Path, load: Load) -> None:
    spawn = multiprocessing.get_context("spawn")
    first, second = spawn.Queue(BOUND), spawn.Queue(BOUND)
    children = [
        spawn.Process(target=source, args=(load, first), daemon=True),
        spawn.Process(target=transform, args=(first, second), daemon=True),
        spawn.Process(target=sink, args=(folder, load, second), daemon=True),
    ]
    for child in children:
        child.start()
    (folder / "pids").write_text(" ".join(str(child.pid) for child in children))

    def kill_all(*_: object) -> None:
        for child in children:
            child.kill()

    signal.signal(signal.SIGTERM, kill_all)
    for child in children:
        child.join()


def source(load: Load, queue: Any) -> None:
    put = queue.put
    for payload in roles.messages(load):
        put(payload)


def transform(queue: Any, after: Any) -> None:
    get, put = queue.get, after.put
    while True:
        put(touch(get()))


def sink(folder: Path, load: Load, queue: Any) -> None:
    take, get = roles.sink(folder, load), queue.get
    while True:
        take(get())


if __name__ == "__main__":
    roles.main({"all": run_all})
