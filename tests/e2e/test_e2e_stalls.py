"""Consumers that stop and stages that are slow: work moves on, and what is held stays within its bounds."""

from __future__ import annotations

import signal
from collections import defaultdict

import pytest
from e2e_types import MakePipeline
from pipeline import Name, Snapshot, ids, send, wait_until

WORK = """
import time


def work(payload):
    time.sleep({delay})
    return payload
"""

TWO_WORKERS = """
[pipeline]
name = "p"
peer_timeout = "1s"

[telemetry]
interval = "100ms"

[stages.read]
plugin = "generate"
options = { count = 3000 }

[stages.work]
input = "read"
plugin = "python"
instances = 2
options = { function = "work.py:work" }

[stages.store]
input = "work"
plugin = "sqlite"
batch = { messages = 100, timeout = "50ms" }
options = { path = "out.db", table = "t", key = "id" }
"""


def test_stopped_consumer_loses_its_work_to_its_sibling(make: MakePipeline) -> None:
    pipeline = make(TWO_WORKERS, work=WORK.format(delay=0.001))
    run = pipeline.run()
    with pipeline.watch() as watch:

        def seen(stage: str, instance: int = 1) -> Snapshot:
            watch.poll(0.0)
            return watch.snapshots.get((stage, instance), defaultdict(int))

        wait_until(lambda: min(seen("work", 1)["received"], seen("work", 2)["received"]) > 50, "both work")
        stopped = pipeline.pid("work", 2)
        send(stopped, signal.SIGSTOP)
        try:
            wait_until(lambda: seen("read")["finished"] == 3000, "the head is finished while one is stopped")
            assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(3000))
            assert run.running, "an instance that is known and has not stopped is waited for"
        finally:
            send(stopped, signal.SIGCONT)
        ledger = run.ledger()
    assert ledger["stages"]["work"]["restarts"] == 0
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(3000))


SLOW_MIDDLE = """
[pipeline]
name = "p"

[telemetry]
interval = "100ms"

[stages.read]
plugin = "generate"
unacked = {{ messages = 2000 }}
options = {{ count = {count}, size = 200 }}

[stages.slow]
input = "read"
plugin = "python"
queue = {{ messages = 300 }}
unacked = {{ messages = 700 }}
options = {{ function = "work.py:work" }}

[stages.store]
input = "slow"
plugin = "sqlite"
queue = {{ messages = 100 }}
batch = {{ messages = 50, timeout = "50ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""
QUEUES = {"read": 0, "slow": 300, "store": 100}
ONE_TASK = 512
"""Outputs that one task of `slow` can have: as many as a parcel."""
UNACKED = {"read": 2000, "slow": 700 + ONE_TASK}
MIB = 1 << 20


def test_slow_stage_holds_no_more_than_its_bounds(make: MakePipeline) -> None:
    hold_bounds(make, count=6000)


@pytest.mark.stress
def test_slow_stage_holds_no_more_than_its_bounds_for_long(make: MakePipeline) -> None:
    hold_bounds(make, count=200_000)


def hold_bounds(make: MakePipeline, count: int) -> None:
    """The middle stage takes a millisecond a message: a hundred times what the source needs."""
    pipeline = make(SLOW_MIDDLE.format(count=count), work=WORK.format(delay=0.001))
    run = pipeline.run()
    seen = pipeline.snapshots_until_end(run, deadline_s=600)
    ledger = run.ledger()
    assert ledger["stages"]["store"]["completed"] == count
    by_name: dict[Name, list[Snapshot]] = defaultdict(list)
    for snapshot in seen:
        by_name[snapshot["stage"], snapshot["instance"]].append(snapshot)
        assert snapshot["held"] <= QUEUES[snapshot["stage"]], snapshot
        for link in snapshot["links"]:
            assert link["in_flight"] + link["unsent"] <= UNACKED[snapshot["stage"]], snapshot
    assert set(by_name) == {("read", 1), ("slow", 1), ("store", 1)}
    held = [link["in_flight"] + link["unsent"] for snapshot in by_name["read", 1] for link in snapshot["links"]]
    assert max(held) > 1000, "the source is held up by its bound, so the bound was tried"
    for name, snapshots in by_name.items():
        assert_flat(name, [snapshot["rss_bytes"] for snapshot in snapshots])


def assert_flat(name: Name, rss_bytes: list[int]) -> None:
    """The last quarter is not above the first one by more than 8 MiB, after a warm-up of a tenth."""
    assert len(rss_bytes) >= 20, f"{name}: only {len(rss_bytes)} snapshots"
    warm = rss_bytes[len(rss_bytes) // 10 :]
    quarter = len(warm) // 4
    first, last = max(warm[:quarter]), max(warm[-quarter:])
    assert last <= first + 8 * MIB, f"{name}: grew from {first / MIB:.1f} to {last / MIB:.1f} MiB"
