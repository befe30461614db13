"""What an instance costs that has nothing to do, as far as it can be counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from e2e_types import MakePipeline
from pipeline import Command, Pipeline, wait_until

from zpipe.operate.watch import Watch

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "./waits.py"

[stages.work]
input = "read"
plugin = "python"
options = { function = "work.py:work" }

[stages.drop]
input = "work"
plugin = "discard"
"""
WAITS = """
import threading

import zpipe


@zpipe.hookimpl
def zpipe_source(context):
    threading.Event().wait()
    yield 0, None
"""
WORK = """
def work(payload):
    return payload
"""
HEAVY = {
    *("_hashlib", "ssl", "sqlite3", "importlib.metadata", "email", "http", "asyncio", "subprocess", "multiprocessing"),
    *("concurrent", "tempfile", "zipfile", "difflib", "urllib.request", "xml", "rich", "opentelemetry"),
    *("zpipe.monitor", "zpipe.operate", "zpipe.supervisor", "zpipe.transport.listener"),
}
"""Modules that only some stages need, or only commands: each takes memory and start time (OpenSSL, by hashlib, 4 MiB)."""


def imported(command: Command) -> set[str]:
    """What PYTHONPROFILEIMPORTTIME has printed, with the packages around it."""
    found = set()
    for line in command.stderr.splitlines():
        if line.startswith("import time:"):
            words = line.rpartition("|")[2].strip().split(".")
            found |= {".".join(words[: depth + 1]) for depth in range(len(words))}
    return found


def started(pipeline: Pipeline) -> list[Command]:
    return [pipeline.stage(stage) for stage in ("read", "work", "drop")]


def joined(watch: Watch) -> bool:
    watch.poll(0.0)
    return all(watch.snapshots.get((stage, 1), {}).get("sessions") for stage in ("work", "drop"))


def waits(pid: int) -> int:
    """How often its threads, but for those of libzmq, have waited for something so far. Other load on the machine does not
    count."""
    tasks = [task for task in Path(f"/proc/{pid}/task").iterdir() if not (task / "comm").read_text().startswith("ZMQ")]
    lines = [line.split() for task in tasks for line in (task / "status").read_text().splitlines()]
    return sum(int(line[1]) for line in lines if line[0] == "voluntary_ctxt_switches:")


def test_instance_at_rest_has_imported_nothing_that_it_does_not_need(make: MakePipeline) -> None:
    pipeline = make(CONFIG, waits=WAITS, work=WORK)
    pipeline.env["PYTHONPROFILEIMPORTTIME"] = "1"
    stages = started(pipeline)
    with pipeline.watch() as watch:
        wait_until(lambda: joined(watch), "the pipeline is joined")
    for command in stages:
        assert {"zmq", "zpipe.daemon.loop"} <= imported(command), command.stderr
        assert imported(command) & HEAVY == set(), command.arguments


def test_pipeline_at_rest_wakes_up_once_a_second(make: MakePipeline) -> None:
    """Everything periodic is due at the same instants, in all instances. What neighbours say then may come one by one."""
    pipeline = make(CONFIG, waits=WAITS, work=WORK)
    stages = started(pipeline)
    with pipeline.watch() as watch:
        wait_until(lambda: joined(watch), "the pipeline is joined")
        heard: Counter[str] = Counter()

        def all_heard(snapshots: int) -> bool:
            heard.update(snapshot["stage"] for snapshot in watch.poll(0.0))
            return all(heard[stage] >= snapshots for stage in ("read", "work", "drop"))

        wait_until(lambda: all_heard(2), "it has come to rest")
        before = {command.pid: waits(command.pid) for command in stages}
        wait_until(lambda: all_heard(10), "eight seconds have passed")
    for command in stages:
        assert waits(command.pid) - before[command.pid] <= 8 * 6, command.arguments
