"""Disks that are full or read-only under the state files and under a sink: said once, waited for, nothing lost.

The full disk is a small tmpfs of the test's own, so these need root.
"""

from __future__ import annotations

import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from e2e_types import MakePipeline
from pipeline import Command, Pipeline, Snapshot, ids, wait_until
from small_disk import small_disk

from zpipe.operate.watch import Watch

CONFIG = """
[pipeline]
name = "p"

[telemetry]
interval = "100ms"

[stages.read]
plugin = "generate"
unacked = { messages = 100 }
options = { count = 2000 }

[stages.work]
input = "read"
plugin = "python"
queue = { messages = 100 }
retry = { attempts = 2, delay = "5ms" }
options = { function = "work.py:work" }

[stages.store]
input = "work"
plugin = "sqlite"
batch = { messages = 50, timeout = "50ms" }
options = { path = "disk/out.db", table = "t", key = "id" }
"""
WORK = """
import os
import subprocess
import time


def work(payload):
    while payload["id"] >= 200 and not os.path.exists(GATE):
        time.sleep(0.005)
    if payload["id"] % 10 == 7:
        raise ValueError(f"cannot work on {payload['id']}")
    return payload
"""


def made(make: MakePipeline) -> tuple[Pipeline, Path]:
    """The pipeline, and the file that lets `work` go on after its first 200 messages."""
    pipeline = make(CONFIG)
    gate = pipeline.folder / "gate"
    (pipeline.folder / "work.py").write_text(WORK.replace("GATE", repr(str(gate))))
    return pipeline, gate


def seen(watch: Watch, stage: str) -> Snapshot:
    watch.poll(0.0)
    return watch.snapshots.get((stage, 1), defaultdict(int))


def said(run: Command, event: str, *parts: str) -> list[str]:
    return [
        line for line in run.stderr.splitlines() if f"event={event} " in line and all(part in line for part in parts)
    ]


BAD = list(range(7, 2000, 10))


@pytest.mark.needs("mounts")
def test_full_disk_under_the_dead_letters_is_waited_for(make: MakePipeline) -> None:
    pipeline, gate = made(make)
    (pipeline.folder / "disk").mkdir()
    with small_disk(pipeline.home / "s" / "p.work.1") as disk:
        run = pipeline.run()
        with pipeline.watch() as watch:
            wait_until(lambda: seen(watch, "work")["dead"] >= 10, "dead letters are written")
            disk.fill()
            gate.touch()
            wait_until(lambda: "disk is full" in str(seen(watch, "work")["held_by"]), "it says what holds it")
            at = seen(watch, "work")["at"]
            wait_until(lambda: seen(watch, "work")["at"] > at + 3, "it waits")
            assert run.running and 0 < seen(watch, "work")["in_process"] <= 100
            assert len(said(run, "dead_letter.unwritten", "p.work.1/state.db", "database or disk is full")) <= 2
            disk.free()
            wait_until(lambda: not seen(watch, "work")["held_by"], "nothing holds it")
        ledger = run.ledger()
        assert ledger["stages"]["work"]["dead"] == len(BAD)
        assert said(run, "dead_letter.written", "after_s=")
        assert sorted(payload["id"] for *_, payload in pipeline.letters("work")) == BAD
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id", "disk/out.db")) == [n for n in range(2000) if n % 10 != 7]


@pytest.mark.needs("mounts")
def test_full_disk_under_the_position_is_waited_for_and_no_position_is_lost(make: MakePipeline) -> None:
    """Also at the very end, where the mark of the stop has to be written."""
    pipeline, gate = made(make)
    (pipeline.folder / "disk").mkdir()
    with small_disk(pipeline.home / "s" / "p.read.1") as disk:
        run = pipeline.run()
        with pipeline.watch() as watch:
            wait_until(lambda: pipeline.position("read") is not None, "a position is written")
            disk.fill()
            gate.touch()
            wait_until(lambda: "disk is full" in str(seen(watch, "read")["held_by"]), "it says what holds it")
            wait_until(lambda: seen(watch, "read")["finished"] == 2000, "everything is worked on meanwhile")
            at = seen(watch, "read")["at"]
            wait_until(lambda: seen(watch, "read")["at"] > at + 3, "it waits")
            assert run.running and pipeline.position("read") < 1999
            assert 1 <= len(said(run, "position.unwritten", "p.read.1/state.db", "database or disk is full")) <= 3
            disk.free()
        run.ledger()
        assert said(run, "position.written", "after_s=")
        assert pipeline.position("read") == 1999


@pytest.mark.needs("mounts")
def test_full_disk_under_a_sink_uses_up_no_attempts(make: MakePipeline) -> None:
    pipeline, gate = made(make)
    with small_disk(pipeline.folder / "disk") as disk:
        run = pipeline.run()
        with pipeline.watch() as watch:
            wait_until(lambda: seen(watch, "store")["completed"] >= 100, "some are stored")
            disk.fill()
            gate.touch()
            wait_until(lambda: "disk/out.db: database or disk is full" in str(seen(watch, "store")["held_by"]), "held")
            at = seen(watch, "store")["at"]
            wait_until(lambda: seen(watch, "store")["at"] > at + 3, "it waits")
            assert len(said(run, "plugin.waits", "disk is full")) <= 2
            disk.free()
        ledger = run.ledger()
        assert ledger["stages"]["store"]["dead"] == 0
        assert said(run, "plugin.resumed")
        assert ids(pipeline.query("SELECT id FROM t ORDER BY id", "disk/out.db")) == [
            n for n in range(2000) if n % 10 != 7
        ]


def test_mark_of_the_stop_that_cannot_be_written_is_waited_for(make: MakePipeline) -> None:
    """All is acked and said by then: only the ledger and late neighbours need the mark, and they get it."""
    pipeline, gate = made(make)
    gate.touch()
    (pipeline.folder / "disk").mkdir()
    in_the_way = pipeline.home / "s" / "p.store.1" / "stopped.part"
    in_the_way.mkdir(parents=True)
    run = pipeline.run()
    wait_until(lambda: said(run, "stop_mark.unwritten", "p.store.1", "Is a directory") or not run.running, "it says so")
    wait_until(lambda: sorted(pipeline.instances()) == [("store", 1)], "the others have stopped")
    assert run.running
    in_the_way.rmdir()
    run.ledger()
    assert said(run, "stop_mark.written")


@pytest.mark.needs("mounts")
def test_start_on_a_full_disk_says_so(make: MakePipeline) -> None:
    pipeline, _ = made(make)
    with small_disk(pipeline.home / "s" / "p.work.1") as disk:
        disk.fill()
        command = pipeline.stage("work")
        assert command.wait() == 1
        [line] = command.stderr.splitlines()
        assert line.startswith("zpipe: cannot ") and "is there room on its disk?" in line


@pytest.mark.needs("mounts")
def test_start_in_a_read_only_state_folder_says_so(make: MakePipeline) -> None:
    pipeline, _ = made(make)
    with small_disk(pipeline.home / "s" / "p.work.1") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
        command = pipeline.stage("work")
        assert command.wait() == 1
        [line] = command.stderr.splitlines()
        assert "Read-only file system" in line and "is its folder writable" in line
