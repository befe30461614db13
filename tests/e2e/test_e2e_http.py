"""The `http` plugin and the adaptive limit against a real service that allows so many calls at once."""

from __future__ import annotations

import signal
import time

import pytest
from e2e_types import MakePipeline
from pipeline import Pipeline, ids, send, wait_until
from service import Service

CONFIG = """
[pipeline]
name = "p"

[telemetry]
interval = "100ms"

[stages.read]
plugin = "generate"
options = {{ {count} }}

[stages.ask]
input = "read"
plugin = "http"
instances = {instances}
retry = {{ delay = "100ms", max_delay = "1s" }}
limit = {limit}
options = {{ url = "http://127.0.0.1:{port}/items/{{id}}", field = "answer" }}

[stages.store]
input = "ask"
plugin = "{sink}"
"""
STORE = """batch = { messages = 100, timeout = "50ms" }
options = { path = "out.db", table = "t", key = "id" }
"""


def config(service: Service, limit: str, instances: int = 1, count: int | None = None) -> str:
    """With a `count` the messages are stored, else there is no end of them."""
    text = CONFIG.format(
        port=service.port,
        limit=limit,
        instances=instances,
        count="" if count is None else f"count = {count}",
        sink="discard" if count is None else "sqlite",
    )
    return text if count is None else text + STORE


def test_a_service_that_throttles_costs_no_message(make: MakePipeline) -> None:
    with Service(capacity=8, seconds=0.05) as service:
        pipeline = make(config(service, "{ start = 2, max = 32 }", instances=2, count=300))
        run = pipeline.run()
        snapshots = pipeline.snapshots_until_end(run)
        ledger = run.ledger()
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(300))
    assert {row["dead"] for row in ledger["stages"].values()} == {0}
    assert len(service.served) == 300
    assert service.refused > 0, "it never found the capacity"
    limits = [snapshot["limit"] for snapshot in snapshots if snapshot["stage"] == "ask"]
    assert len({limit["limit"] for limit in limits}) > 2, "it never moved"
    assert {"growing", "throttled"} <= {limit["reason"] for limit in limits}
    assert all(limit["under_way"] <= 32 and limit["changed_s"] >= 0 for limit in limits)
    assert {snapshot["limit"] for snapshot in snapshots if snapshot["stage"] == "store"} == {None}
    spent = [snapshot["budget"]["limited"] for snapshot in snapshots if snapshot["stage"] == "ask"]
    assert max(spent) > 0.1, "nothing says that the limit is what holds it back"


def test_a_rate_is_kept(make: MakePipeline) -> None:
    with Service(capacity=100, seconds=0.01) as service:
        pipeline = make(config(service, "{ rate = 50 }", count=60))
        pipeline.run().ledger()
    assert len(service.served) == 60
    assert service.served[-1] - service.served[0] > 0.9 * 59 / 50


def test_a_limit_is_changed_while_it_runs(make: MakePipeline) -> None:
    """SIGHUP, to the instance or to its run; the next one compares with what is in force."""
    with Service(capacity=100, seconds=0.05) as service:
        pipeline = make(config(service, '{ kind = "fixed", max = 2 }'))
        run = pipeline.run()
        pid = pipeline.pid("ask")
        with pipeline.watch() as watch:

            def limit() -> int:
                watch.poll(0.0)
                return int((watch.snapshots.get(("ask", 1), {}).get("limit") or {"limit": 0})["limit"])

            wait_until(lambda: limit() == 2, "it says its limit")
            for value, told in ((7, pid), (3, pid), (5, run.pid)):
                pipeline.path.write_text(config(service, f'{{ kind = "fixed", max = {value} }}'))
                send(told, signal.SIGHUP)
                wait_until(lambda value=value: limit() == value, f"the limit is {value}")
        pipeline.kill_all()


CAPACITY = 20
SECONDS = 0.1
"""200 calls a second: what two cores can ask and answer, with the service on the same machine."""


def settled_rate(pipeline: Pipeline, service: Service, seconds: float = 20.0) -> float:
    """Answers a second after the first 300; the pipeline is ended."""
    before = len(service.served)
    run = pipeline.run()
    wait_until(lambda: len(service.served) > before + 300, "it is under way")
    began = time.monotonic()
    assert not run.over_within(seconds)
    rate = service.rate(began, began + seconds)
    pipeline.kill_all()
    return rate


@pytest.mark.stress
@pytest.mark.parametrize("instances", [1, 2, 4])
def test_instances_settle_near_the_best_fixed_limit(make: MakePipeline, instances: int) -> None:
    with Service(CAPACITY, SECONDS) as service:
        fixed = make(config(service, f'{{ kind = "fixed", max = {CAPACITY // instances} }}', instances))
        best = settled_rate(fixed, service)
        fixed.path.write_text(config(service, "{}", instances))
        rate = settled_rate(fixed, service)
    print(f"{instances} instances: {rate:.1f}/s of {best:.1f}/s with the best fixed limit, {rate / best:.3f}")
    assert rate > 0.9 * best


@pytest.mark.stress
def test_after_an_outage_it_is_back_within_ten_round_trips(make: MakePipeline) -> None:
    with Service(CAPACITY, SECONDS) as service:
        pipeline = make(config(service, "{}", 2))
        run = pipeline.run()
        wait_until(lambda: len(service.served) > 600, "it is under way")
        began = time.monotonic()
        assert not run.over_within(10)
        before = service.rate(began, began + 10)
        service.up = False
        assert not run.over_within(20)
        service.up = True
        back = time.monotonic() + 10 * SECONDS
        assert not run.over_within(10 * SECONDS + 3)
        after = service.rate(back, back + 2)
        pipeline.kill_all()
    print(f"{before:.1f}/s before, {after:.1f}/s from ten round trips after its return on")
    assert after > 0.9 * before
