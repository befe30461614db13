"""A service that is not there when a source reads or `open` connects: the stage waits, says for what, and loses nothing."""

from __future__ import annotations

from e2e_types import MakePipeline
from pipeline import Pipeline, Snapshot, wait_until

CONFIG = """
[pipeline]
name = "p"

[telemetry]
interval = "200ms"

[stages.read]
plugin = "./service.py:Read"

[stages.store]
input = "read"
plugin = "ndjson"
batch = {{ messages = 100, timeout = "50ms" }}
options = {{ path = "out.ndjson" }}
"""
SERVICE = """
from pathlib import Path

import zpipe


class Read(zpipe.Source[None, int]):
    def open(self, context):
        self.service = context.config_dir / "service"
        if "OPEN" and not self.service.exists():
            raise zpipe.Throttled(0.05, "open: connection refused")

    def source(self, context):
        for n in range(0 if context.position is None else context.position + 1, 2000):
            if n == 1000 and not self.service.exists():
                raise zpipe.Retry(0.05, "source: connection refused")
            yield n, n
"""


def held(pipeline: Pipeline, words: str) -> Snapshot:
    """A snapshot of `read` that says so; the monitor and the log do, too."""
    with pipeline.watch() as watch:

        def said() -> Snapshot | None:
            return next((one for one in watch.poll(0.1) if words in str(one.get("held_by"))), None)

        snapshot = wait_until(said, words)
    assert snapshot is not None and snapshot["stage"] == "read"
    shown = pipeline.zpipe("monitor", str(pipeline.path), "--once", "--timeout", "60")
    assert shown.wait() == 0, shown.stderr
    assert f"it waits for ./service.py:Read: {words}; next try in 0.1 s" in " ".join(shown.stdout.split())
    return snapshot


def test_open_and_source_wait_for_their_service(make: MakePipeline) -> None:
    pipeline = make(CONFIG.format(), service=SERVICE)
    service = pipeline.folder / "service"
    run = pipeline.run()
    assert held(pipeline, "open: connection refused")["state"] == "STARTING"
    service.touch()
    ledger = run.ledger()
    assert pipeline.lines("out.ndjson") == list(range(2000))
    assert ledger["stages"]["read"]["restarts"] == 0
    assert 'event=service.waits reason="it waits for ./service.py:Read: open: connection refused' in run.stderr
    assert "event=service.reached" in run.stderr


def test_a_source_goes_on_after_what_it_gave_when_its_service_is_back(make: MakePipeline) -> None:
    pipeline = make(CONFIG.format(), service=SERVICE.replace('if "OPEN"', "if False"))
    run = pipeline.run()
    held(pipeline, "source: connection refused")
    wait_until(lambda: len(pipeline.lines_so_far("out.ndjson")) == 1000, "what it had given is through")
    (pipeline.folder / "service").touch()
    read = run.ledger()["stages"]["read"]
    assert (read["received"], read["restarts"], read["dead"]) == (2000, 0, 0)
    assert pipeline.lines("out.ndjson") == list(range(2000)), "each once"


def test_a_pipeline_whose_head_waits_drains_at_once(make: MakePipeline) -> None:
    pipeline = make(CONFIG.format(), service=SERVICE.replace("0.05", "3000.0"))
    run = pipeline.run()
    wait_until(lambda: "event=service.waits" in run.stderr, "it waits")
    run.interrupt()
    assert run.ledger()["stages"]["read"]["received"] == 0
    (pipeline.folder / "service").touch()
    assert pipeline.run().ledger()["stages"]["read"]["received"] == 2000, "nothing was taken for read"


def test_a_source_that_only_a_person_can_help_ends_the_run(make: MakePipeline) -> None:
    service = SERVICE.replace('zpipe.Throttled(0.05, "open: connection refused")', 'OSError("never")')
    service = service.replace('if "OPEN"', "if False").replace("zpipe.Retry(0.05, ", "OperatorError(")
    pipeline = make(CONFIG.format(), service="from zpipe.errors import OperatorError\n" + service)
    run = pipeline.run()
    assert run.wait() == 1
    assert "event=source.failed" in run.stderr and "source: connection refused" in run.stderr
    assert "restarts=" not in run.stderr and "Traceback" not in run.stderr, "it is not started again"
