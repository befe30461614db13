"""Disk buffers between real daemons, under `kill -9` and with a sink that is away: nothing is lost, and memory is bounded."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from e2e_types import MakePipeline
from pipeline import Pipeline, wait_until

SQUARES = """
import time
from pathlib import Path

KILLED = Path(__file__).with_name("killed")


def square(payload):
    while payload["id"] == {last} and not KILLED.exists():
        time.sleep(0.01)
    return {{"id": payload["id"], "square": payload["id"] ** 2}}
"""
"""Keeps the last message until everybody is killed who is to be: the run cannot end before, however long that takes."""

BUFFERED = """
[pipeline]
name = "k"

[stages.read]
plugin = "generate"
buffer = {{ kind = "disk", sync = "{sync}" }}
options = {{ count = {count}, rate = {rate} }}

[stages.square]
input = "read"
plugin = "python"
buffer = {{ kind = "disk", bytes = "32MiB" }}
options = {{ function = "squares.py:square" }}

[stages.store]
input = "square"
plugin = "sqlite"
batch = {{ messages = 200, timeout = "100ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""

AWAY = """
[pipeline]
name = "a"

[telemetry]
interval = "200ms"

[stages.read]
plugin = "generate"
buffer = {{ kind = "disk" }}
options = {{ count = {count}, fields = {{ user = "ada.lovelace", item = "widget-042", price = 19.99 }} }}

[stages.store]
input = "read"
plugin = "ndjson"
batch = {{ messages = 4000, timeout = "100ms" }}
options = {{ path = "out.ndjson" }}
"""


def kill_often(make: MakePipeline, count: int, rate: int, kills: int, seed: int, sync: str = "batch") -> None:
    pipeline = make(BUFFERED.format(count=count, rate=rate, sync=sync), squares=SQUARES.format(last=count - 1))
    run = pipeline.run()
    wait_until(lambda: pipeline.count() or not run.running, "the first rows are stored")
    killed = pipeline.kill_at_random(run, random.Random(seed), kills, (0.2, 0.8))
    (pipeline.folder / "killed").touch()
    assert len(killed) == kills, f"the run ended after {len(killed)} of {kills} kills: {run.stderr}"
    run.ledger()
    assert pipeline.query("SELECT count(*), min(id), max(id) FROM t") == [(count, 0, count - 1)]
    assert pipeline.query("SELECT count(*) FROM t WHERE square != id * id") == [(0,)]
    for buffer in (pipeline.home / "s").glob("k.*/buffers/*"):
        assert not list(buffer.glob("bad/*")), "a kill damages nothing that was acked"
        assert sum(path.stat().st_size for path in buffer.glob("*.seg")) <= 64 << 20


def test_random_kills_of_stages_with_disk_buffers_lose_nothing(make: MakePipeline) -> None:
    kill_often(make, count=15_000, rate=6000, kills=4, seed=1)


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(4))
def test_fifty_random_kills_of_stages_with_disk_buffers_lose_nothing(make: MakePipeline, seed: int) -> None:
    kill_often(make, count=400_000, rate=12_000, kills=50, seed=seed, sync=("batch", "interval:50ms")[seed % 2])


def rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    kib = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return next(kib, 0) / 1024  # one that is ending has none


def received(pipeline: Pipeline) -> int:
    return (pipeline.position("read") or -1) + 1


@pytest.mark.stress
def test_a_sink_that_is_away_for_a_million_messages_gets_each_once_in_order_and_memory_is_bounded(
    make: MakePipeline,
) -> None:
    count = 1_000_000
    pipeline = make(AWAY.format(count=count))
    read = pipeline.stage("read")
    wait_until(lambda: received(pipeline) > count // 10, "a tenth is stored")
    early = rss_mib(read.pid)
    wait_until(lambda: received(pipeline) == count, "everything is stored and acked to the source", 240)
    late = rss_mib(read.pid)
    assert late - early < 8, f"{early:.1f} MiB with a tenth stored, {late:.1f} MiB with all of it"
    store = pipeline.stage("store")
    most = late

    def taken() -> bool:
        nonlocal most
        if read.running:
            most = max(most, rss_mib(read.pid))
        return not store.running

    wait_until(taken, "the sink has taken everything", 300)
    assert (read.wait(), store.wait()) == (0, 0)
    assert most - late < 32, f"{late:.1f} MiB before it was read, {most:.1f} MiB while it was"
    print(f"RSS: {early:.1f} MiB at a tenth, {late:.1f} MiB with a million stored, {most:.1f} MiB at most while read")
    with (pipeline.folder / "out.ndjson").open() as file:
        for number, line in enumerate(file):
            assert line.startswith(f'{{"id":{number},') or f'"id": {number},' in line, line
    assert number == count - 1
