"""What real instances record of their events plays again: the core gives each answer anew."""

from __future__ import annotations

import stat
from collections import Counter
from pathlib import Path

import pytest
from e2e_types import MakePipeline
from pipeline import Pipeline, wait_until

from zpipe.testing.event_replay import Step, main, replay

COUNT = 3000
CONFIG = f"""
[pipeline]
name = "p"
peer_timeout = "1s"

[telemetry]
interval = "200ms"

[stages.read]
plugin = "generate"
buffer = {{ kind = "disk" }}
options = {{ count = {COUNT}, rate = 1500 }}

[stages.work]
input = "read"
plugin = "python"
retry = {{ attempts = 2, delay = "10ms" }}
options = {{ function = "work.py:work" }}

[stages.store]
input = "work"
plugin = "ndjson"
batch = {{ messages = 50, timeout = "20ms" }}
options = {{ path = "out.ndjson" }}
"""
WORK = """
def work(payload):
    if payload["id"] % 100 == 7:
        raise ValueError("no")
    return payload
"""


def played(path: Path) -> list[Step]:
    """Each step of the record, which all are as they were."""
    steps = list(replay(path))
    for number, step in enumerate(steps, 1):
        assert not step.differs, f"call {number} of {path.name}: {step}"
    return steps


def kinds(steps: list[Step]) -> Counter[str]:
    return Counter(type(step.event).__name__ for step in steps if step.event is not None)


def start(pipeline: Pipeline, stage: str) -> Path:
    record = pipeline.folder / f"{stage}.events"
    pipeline.stage(stage, 1, "--record-events", str(record))
    return record


def test_records_of_a_pipeline_play_again(make: MakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = make(CONFIG, work=WORK)
    read, work, store = (start(pipeline, stage) for stage in ("read", "work", "store"))
    wait_until(lambda: pipeline.has_ended("store"), "the end")

    assert stat.S_IMODE(read.stat().st_mode) == 0o600, "messages are in it"
    heard = kinds(played(read))
    assert heard["SourceYielded"] and heard["LinkHeard"] and heard["PositionStored"]
    heard = kinds(played(work))
    assert heard["ParcelReceived"] and heard["LetterWritten"] == COUNT // 100 and heard["CallFinished"]
    assert kinds(played(store))["UpstreamReceived"]
    assert main(str(work)) == 0
    assert "each answered as in the record" in capsys.readouterr().out


def test_the_record_of_a_killed_instance_and_that_of_the_next_life_play_again(make: MakePipeline) -> None:
    pipeline = make(CONFIG, work=WORK)
    start(pipeline, "read"), start(pipeline, "store")
    work = start(pipeline, "work")
    wait_until(lambda: pipeline.lines_so_far("out.ndjson"), "messages have come through")
    pipeline.kill("work")
    wait_until(lambda: pipeline.pid_at_work("work") is None, "it is gone")
    start(pipeline, "work")
    wait_until(lambda: pipeline.has_ended("store"), "the end")
    assert kinds(played(work.with_name("work.events.old")))["ParcelReceived"]
    assert kinds(played(work))["ParcelReceived"]
