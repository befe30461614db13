"""A disk buffer between real daemons: its consumer is away, its producer is killed, it is left, its disk is full."""

from __future__ import annotations

from typing import Any

import pytest
from e2e_types import MakePipeline
from pipeline import Pipeline, wait_until
from small_disk import small_disk

COUNT = 3000
CONFIG = """
[pipeline]
name = "b"

[telemetry]
interval = "100ms"

[stages.read]
plugin = "generate"
unacked = {{ messages = 500 }}
buffer = {{ kind = "disk"{more} }}
options = {{ count = {count}, size = 50 }}

[stages.store]
input = "read"
plugin = "ndjson"
batch = {{ messages = 20, timeout = "50ms" }}
options = {{ path = "out.ndjson" }}
"""
FOLDER = "s/b.read.1/buffers/_.store"


def config(count: int = COUNT, more: str = "") -> str:
    return CONFIG.format(count=count, more=more)


def gated(count: int) -> str:
    """With a sink that is slow until a file lets it go."""
    return config(count).partition("[stages.store]")[0] + '[stages.store]\ninput = "read"\nplugin = "./gate.py"\n'


def stored(pipeline: Pipeline) -> list[int]:
    return [line["id"] for line in pipeline.lines("out.ndjson")]


def acked(pipeline: Pipeline) -> int:
    """Messages that the source need not give again. Its position is the number of the last, from 0 on."""
    position = pipeline.position("read")
    return 0 if position is None else position + 1


def link(pipeline: Pipeline) -> dict[str, Any]:
    """The buffered link, as its producer has it now."""
    with pipeline.watch() as watch:
        wait_until(lambda: watch.poll(0.1) and ("read", 1) in watch.snapshots, "a snapshot")
        found: dict[str, Any] = watch.snapshots["read", 1]["links"][0]
    return found


def test_a_producer_finishes_without_its_consumer_which_gets_each_once_and_in_order(make: MakePipeline) -> None:
    """The producer is killed with everything stored, and once more while its consumer reads."""
    pipeline = make(config())
    read = pipeline.stage("read")
    wait_until(lambda: acked(pipeline) == COUNT, "everything is acked to the source")
    assert link(pipeline)["buffer"]["stored"] == COUNT and not pipeline.lines_so_far("out.ndjson")
    pipeline.kill("read")
    read.wait()
    read = pipeline.stage("read")
    wait_until(lambda: link(pipeline)["buffer"]["stored"] == COUNT, "it is found again")
    store = pipeline.stage("store")
    wait_until(lambda: len(pipeline.lines_so_far("out.ndjson")) > COUNT // 10, "some are stored")
    pipeline.kill("read")
    read.wait()
    read = pipeline.stage("read")
    assert (read.wait(), store.wait()) == (0, 0)
    assert stored(pipeline) == list(range(COUNT)), "the numbers of messages outlive the producer"
    assert not list((pipeline.home / FOLDER).glob("bad/*"))


def test_a_run_leaves_its_buffer_and_the_next_one_goes_on_with_it(make: MakePipeline) -> None:
    """The sink of the first run does nothing, so nearly all is left; the ledger says so, and balances. What was acked is sent
    also where the next one starts over."""
    pipeline = make(gated(1000), gate=GATE)
    first = pipeline.run("--leave-buffers")
    ledger = first.ledger()
    [row] = ledger["links"]
    left = row["stored"]
    assert row["acked"] + left == 1000 and left > 100 and row["unsent"] == 0
    assert f"stored: {left} messages from read to store are in the disk buffer" in first.stderr
    (pipeline.folder / "open").touch()
    second = pipeline.run("--fresh")
    [row] = second.ledger()["links"]
    assert f"event=buffer.kept to=store stored={left} " in second.stderr
    assert row["acked"] == left + 1000 and not row.get("stored")


def test_a_drain_waits_for_the_buffer_or_leaves_it(make: MakePipeline) -> None:
    pipeline = make(gated(1000), gate=GATE)
    stages = [pipeline.stage("store"), pipeline.stage("read")]
    wait_until(lambda: acked(pipeline) == 1000, "everything is acked to the source")
    drain = pipeline.zpipe("drain", str(pipeline.path), "--timeout", "1s")
    assert drain.wait() == 4, "its buffer is not empty"
    assert "is not waited for with --leave-buffers" in drain.stderr
    drain = pipeline.zpipe("drain", str(pipeline.path), "--leave-buffers", "--json")
    assert drain.wait() == 0, drain.stderr
    assert [stage.wait() for stage in stages] == [0, 0]
    assert "are in the disk buffer, for the next run" in drain.stderr


GATE = """
import time
from pathlib import Path

import zpipe


class Gate(zpipe.Sink):
    def process(self, message):
        time.sleep(0 if Path(__file__).with_name("open").exists() else 0.02)
"""


@pytest.mark.needs("mounts")
def test_a_full_disk_is_back_pressure_and_goes_on_when_it_has_room(make: MakePipeline) -> None:
    """Nothing is acked that is not on the disk, nothing is lost, and nobody fails."""
    pipeline = make(config(more=', bytes = "4MiB"'))
    with small_disk(pipeline.home / FOLDER, 8) as disk:
        disk.fill()
        read = pipeline.stage("read")
        wait_until(lambda: link(pipeline)["buffer"]["trouble"], "the full disk is said")
        assert not acked(pipeline) and read.running
        disk.free()
        wait_until(lambda: acked(pipeline) == COUNT, "it goes on by itself")
        store = pipeline.stage("store")
        assert (read.wait(), store.wait()) == (0, 0)
    assert stored(pipeline) == list(range(COUNT))


def test_a_bound_is_back_pressure(make: MakePipeline) -> None:
    pipeline = make(config(count=900, more=", messages = 200"))
    read = pipeline.stage("read")
    wait_until(lambda: link(pipeline)["buffer"]["stored"] >= 200, "the bound is reached")
    found = link(pipeline)
    assert found["buffer"]["stored"] == 200 and found["unsent"] <= 700
    wait_until(lambda: acked(pipeline) >= 200, "their position is written")
    assert acked(pipeline) == 200
    store = pipeline.stage("store")
    assert (read.wait(), store.wait()) == (0, 0)
    assert stored(pipeline) == list(range(900))
