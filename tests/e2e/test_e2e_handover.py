"""A worker that drives the loop and is stuck in a call: the stage lives on without it."""

from __future__ import annotations

import os
import random
from collections import defaultdict

import pytest
from e2e_types import MakePipeline
from pipeline import Pipeline, Snapshot, ids, wait_until

THREE_STAGES = """
[pipeline]
name = "p"
peer_timeout = "2s"

[telemetry]
interval = "100ms"

[stages.read]
plugin = "generate"
options = {{ count = {count}, rate = {rate} }}

[stages.work]
input = "read"
plugin = "python"
options = {{ function = "work.py:work" }}

[stages.store]
input = "work"
plugin = "sqlite"
batch = {{ messages = 200, timeout = "50ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""

STUCK = """
import os
import traceback
from pathlib import Path


def work(payload):
    if payload["id"] == {stuck_at}:
        files = [Path(frame.filename).name for frame in traceback.extract_stack()]
        Path({folder!r}, "driven").write_text(str("loop.py" in files))
        os.close(os.open(Path({folder!r}, "gate"), os.O_RDONLY))  # blocks in C until somebody opens the other end
    return payload
"""


def stuck_pipeline(make: MakePipeline, count: int, stuck_at: int) -> Pipeline:
    pipeline = make(THREE_STAGES.format(count=count, rate=1000))
    (pipeline.folder / "work.py").write_text(STUCK.format(stuck_at=stuck_at, folder=str(pipeline.folder)))
    os.mkfifo(pipeline.folder / "gate")
    return pipeline


@pytest.mark.parametrize("stuck_s", [5, pytest.param(8, marks=pytest.mark.stress)])
def test_a_call_that_blocks_in_c_holds_up_no_heartbeat_order_or_snapshot(make: MakePipeline, stuck_s: int) -> None:
    count, stuck_at = 20_000, 1000
    pipeline = stuck_pipeline(make, count, stuck_at)
    run = pipeline.run()
    wait_until((pipeline.folder / "driven").exists, "the call that blocks has begun")
    wait_until(lambda: (pipeline.folder / "driven").read_text(), "and says who makes it")
    with pipeline.watch() as watch:

        def seen(stage: str) -> Snapshot:
            watch.poll(0.0)
            return watch.snapshots.get((stage, 1), defaultdict(int))

        wait_until(lambda: seen("work")["queued"], "messages come in while the call is stuck")
        begun = seen("work")["at"]
        wait_until(lambda: seen("work")["at"] > begun + stuck_s, "it is heard of for many times the peer timeout")
        assert watch.ask("work", 1, "pause") == "RUNNING"
        wait_until(lambda: seen("work")["paused"], "the pause is seen")
        assert watch.ask("work", 1, "resume") == "RUNNING"
        assert watch.ask("read", 1, "drain")
        wait_until(lambda: seen("read")["state"] in ("DRAINING", "FLUSHED"), "the drain has begun above it")
        assert (pipeline.folder / "driven").read_text() == "True", "the worker drove the loop"
        os.close(os.open(pipeline.folder / "gate", os.O_WRONLY))
    ledger = run.ledger()
    stages = ledger["stages"]
    assert [stages[name]["restarts"] for name in stages] == [0, 0, 0]
    assert [stages[name]["redelivered"] for name in stages] == [0, 0, 0]
    received = stages["read"]["received"]
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(received))
    assert received > stuck_at


RANDOM_LENGTHS = """
import os
import random
import sys
import time
from pathlib import Path

chance = random.Random({seed})
lost = 0


def driven():
    frame = sys._getframe()
    while frame is not None and Path(frame.f_code.co_filename).name != "loop.py":
        frame = frame.f_back
    return frame is not None


def work(payload):
    global lost
    # Of ten thousand calls about fifty last longer than the loop waits, up to 3 s. The clock turns: no call sleeps its time away.
    # The others are so short that the worker gets the loop again.
    kind = chance.random()
    low, high = (1e-6, 1e-4) if kind < 0.98 else (1e-4, 5e-2) if kind < 0.995 else (5e-2, 3.0)
    until = time.monotonic() + low * (high / low) ** chance.random()
    while time.monotonic() < until:
        pass
    if kind >= 0.995 and driven():  # the loop was lost in this call
        lost += 1
        Path({folder!r}, f"lost-{{os.getpid()}}").write_text(str(lost))
    return payload
"""


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(3))
def test_calls_of_random_length_and_kills_lose_nothing(make: MakePipeline, seed: int) -> None:
    count = 10_000
    pipeline = make(THREE_STAGES.format(count=count, rate=500))
    (pipeline.folder / "work.py").write_text(RANDOM_LENGTHS.format(seed=seed, folder=str(pipeline.folder)))
    run = pipeline.run()
    wait_until(lambda: pipeline.count() or not run.running, "the first rows are stored")
    killed = pipeline.kill_at_random(run, random.Random(seed), 8, (1.0, 4.0))
    ledger = run.ledger(deadline_s=600)
    assert sum(row["restarts"] for row in ledger["stages"].values()) == len(killed)
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(count))
    lost = sum(int(file.read_text()) for file in pipeline.folder.glob("lost-*"))
    assert lost, "some of the calls that last were made by the thread that drove the loop"
