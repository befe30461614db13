"""What an instance costs that has nothing to do, as far as it can be counted."""

from __future__ import annotations

from e2e_types import MakePipeline
from pipeline import Command, wait_until

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


def test_instance_at_rest_has_imported_nothing_that_it_does_not_need(make: MakePipeline) -> None:
    pipeline = make(CONFIG, waits=WAITS, work=WORK)
    pipeline.env["PYTHONPROFILEIMPORTTIME"] = "1"
    stages = [pipeline.stage(stage) for stage in ("read", "work", "drop")]
    with pipeline.watch() as watch:

        def in_session() -> bool:
            watch.poll(0.0)
            return all(watch.snapshots.get((stage, 1), {}).get("sessions") for stage in ("work", "drop"))

        wait_until(in_session, "the pipeline is joined")
    for command in stages:
        assert {"zmq", "zpipe.daemon.loop"} <= imported(command), command.stderr
        assert imported(command) & HEAVY == set(), command.arguments
