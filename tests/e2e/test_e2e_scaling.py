"""More instances of a stage: `zpipe stage` beside a run is all it takes."""

from __future__ import annotations

import signal
import time
from contextlib import suppress

from e2e_types import MakePipeline
from pipeline import ids, send, wait_until

from zpipe.errors import NoPeerError

CONFIG = """
[pipeline]
name = "p"

[telemetry]
interval = "100ms"

[stages.read]
plugin = "generate"
options = { count = 4000 }

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
ENDLESS = CONFIG.replace("count = 4000", "rate = 1000")
"""Until it is interrupted: how long an instance takes to start is not known."""
WORK = """
import time


def work(payload):
    time.sleep(0.002)
    return payload
"""


def test_another_instance_takes_its_share(make: MakePipeline) -> None:
    pipeline = make(ENDLESS, work=WORK)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > 100, "the run is well under way")
    with pipeline.watch() as watch:
        began = time.monotonic()
        third = pipeline.stage("work", 3)

        def share() -> int:
            watch.poll(0.0)
            snapshot = watch.snapshots.get(("work", 3))
            return snapshot["received"] if snapshot is not None else 0

        wait_until(share, "the third instance receives")
        print(f"the third instance had its first messages {time.monotonic() - began:.2f} s after exec")
    run.interrupt()
    ledger = run.ledger()
    assert third.wait() == 0, third.stderr
    received = [pipeline.final("work", instance)["received"] for instance in (1, 2, 3)]
    print("received by each:", received)
    assert min(received) > 0
    read = ledger["stages"]["read"]["received"]
    assert sum(received) == ledger["stages"]["work"]["received"] == read
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(read))


def test_instance_that_leaves_hands_its_work_back(make: MakePipeline) -> None:
    """SIGTERM to one started beside the run: siblings take over, and its account stays in the ledger."""
    pipeline = make(ENDLESS, work=WORK)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > 100, "the run is well under way")
    third = pipeline.stage("work", 3)
    with pipeline.watch() as watch:
        wait_until(
            lambda: watch.poll(0.0) and watch.snapshots.get(("work", 3), {}).get("completed"), "the third one works"
        )
    third.process.terminate()
    assert third.wait() == 0, third.stderr
    assert run.running
    run.interrupt()
    ledger = run.ledger()
    read = ledger["stages"]["read"]["received"]
    assert ledger["stages"]["work"]["completed"] == read
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(read))


def test_a_run_ends_though_an_instance_has_left_before_its_consumer_was_killed(make: MakePipeline) -> None:
    """The consumer's next life has heard nothing of it, and nobody starts it again."""
    pipeline = make(ENDLESS, work=WORK)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > 100, "the run is well under way")
    send(pipeline.pid("work", 2), signal.SIGTERM)
    wait_until(lambda: "event=stage.left stage=work.2" in run.stderr, "it has left")
    pipeline.kill("store")
    stored = pipeline.count()
    wait_until(lambda: pipeline.count() > stored + 100, "the next life of the consumer works")
    run.interrupt()
    read = run.ledger()["stages"]["read"]["received"]
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(read))


DIVIDED = ENDLESS.replace('plugin = "generate"\noptions = { rate = 1000 }', 'plugin = "./source.py"\ninstances = 2')
SOURCE = """
import zpipe


class Numbers(zpipe.Source[None, int]):
    def traits(self, options, config_dir):
        return zpipe.Traits(divides=True)

    def source(self, context):
        for n in range(context.instance, 100 if context.instance == 1 else 10**9, 2):
            context.stopping.wait(0.005)
            yield n, {"id": n}
"""


def test_a_run_ends_though_the_last_instance_of_a_stage_has_left_when_the_other_had_ended(make: MakePipeline) -> None:
    """Those below end with that, so its next life would have nobody to send to."""
    pipeline = make(DIVIDED, work=WORK, source=SOURCE)
    run = pipeline.run()
    wait_until(lambda: pipeline.has_ended("read", 1), "one of two has ended")
    send(pipeline.pid("read", 2), signal.SIGTERM)
    read = run.ledger()["stages"]["read"]["received"]
    assert "event=stage.left stage=read.2" in run.stderr
    assert pipeline.count() == read


def test_an_instance_that_was_there_before_the_run_belongs_to_it(make: MakePipeline) -> None:
    pipeline = make(CONFIG, work=WORK)
    third = pipeline.stage("work", 3)
    pipeline.pid("work", 3)
    ledger = pipeline.run().ledger()
    assert third.wait() == 0, third.stderr
    assert ledger["stages"]["work"]["completed"] == 4000


def test_an_instance_that_was_killed_beside_the_run_is_started_again_by_it(make: MakePipeline) -> None:
    """What it did after its last snapshot is in no count of its own: the ledger says how much that is, and the sums add up."""
    pipeline = make(ENDLESS.replace('interval = "100ms"', 'interval = "10s"'), work=WORK)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > 100, "the run is well under way")
    third = pipeline.stage("work", 3)
    with pipeline.watch() as watch:

        def share() -> int:
            with suppress(NoPeerError):
                watch.ask("work", 3, "snapshot")
            watch.poll(0.1)
            done: int = watch.snapshots.get(("work", 3), {"completed": 0})["completed"]
            return done

        wait_until(
            lambda: share() and "event=stage.joined stage=work.3" in run.stderr, "the third works, and the run knows"
        )
        stored = pipeline.count()
        wait_until(lambda: pipeline.count() > stored + 1500, "and has done more than it has said")
        incarnation = watch.snapshots["work", 3]["incarnation"]
    third.end()
    wait_until(lambda: "event=stage.adopted stage=work.3" in run.stderr, "it is started again")
    run.interrupt()
    ledger = run.ledger()
    assert ledger["killed"] == [f"work.3:{incarnation}"]
    (into, out), work, store = ledger["links"], ledger["stages"]["work"], ledger["stages"]["store"]
    assert work["unknown"] > 0
    assert work["completed"] + work["unknown"] == into["acked"] == ledger["stages"]["read"]["received"]
    assert out["acked"] + out["unknown"] == store["completed"]
    assert f"unknown: work {work['unknown']}, work -> store {out['unknown']} messages" in run.stderr
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(into["acked"]))
