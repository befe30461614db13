"""The reference of N3: one PUSH that deals round-robin to four workers, as pyzmq has it. Does not belong here: the measure."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from benchmarks.peers import roles
from benchmarks.processes import wait_until
from benchmarks.window import Load

MODULE = "benchmarks.cases.sharing_by_hand"


class SharedByHand:
    def __init__(self, workers: int, seconds: float, slower: float, count: int) -> None:
        self._workers = workers
        self._seconds = seconds
        self._slower = slower
        self._count = count

    def calls(self) -> list[list[tuple[float, float]]]:
        """Of each worker (start, seconds) of each call."""
        with roles.role_processes(MODULE, Load()) as processes:
            for number in range(self._workers):
                seconds = self._seconds * (self._slower if number == 0 else 1)
                processes.start("work", number=number, seconds=seconds)
            processes.start("source", workers=self._workers, count=self._count)
            files = [processes.folder / f"calls-{number}" for number in range(self._workers)]
            wait_until(lambda: all(file.exists() for file in files), "all workers are done")
            return [list(map(tuple, json.loads(file.read_text()))) for file in files]


def source(folder: Path, load: Load, workers: int, count: int) -> None:
    """Sends when all workers are connected; then one empty message to each, which ends it."""
    import zmq

    push: Any = zmq.Context.instance().socket(zmq.PUSH)
    push.bind(f"ipc://{folder}/work")
    wait_until(lambda: len(list(folder.glob("ready-*"))) == workers, "all workers")
    time.sleep(0.5)  # PUSH does not say when it has accepted a connection
    for _ in range(count - count % workers):
        push.send(b"x")
    for _ in range(workers):
        push.send(b"")
    time.sleep(3600)  # until it is ended: what it has sent must be read first


def work(folder: Path, load: Load, number: int, seconds: float) -> None:
    import zmq

    pull: Any = zmq.Context.instance().socket(zmq.PULL)
    pull.connect(f"ipc://{folder}/work")
    (folder / f"ready-{number}").touch()
    calls = []
    while pull.recv():
        start = time.monotonic()
        time.sleep(seconds)
        calls.append((start, time.monotonic() - start))
    part = folder / f"part-{number}"
    part.write_text(json.dumps(calls))
    part.rename(folder / f"calls-{number}")
    time.sleep(3600)


if __name__ == "__main__":
    roles.main({"source": source, "work": work})
