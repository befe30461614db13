"""Messages that are tried again for long hold up nobody."""

from __future__ import annotations

import time

import pytest
from e2e_types import MakePipeline
from pipeline import Pipeline, wait_until

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = {{ count = {count} }}
{more}

[stages.work]
input = "read"
plugin = "python"
retry = {{ attempts = 50 }}
options = {{ function = "work.py:work" }}

[stages.store]
input = "work"
plugin = "sqlite"
batch = {{ messages = 100, timeout = "50ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""
WORK = """
import time
from pathlib import Path

import zpipe

AGAIN = Path(__file__).with_name("again")
first = {{}}


def again(n):
    return AGAIN.exists() or time.monotonic() < first.setdefault(n, time.monotonic()) + {for_s}


def work(payload):
    n = payload["id"]
    if {retry} and n % 100 == 0 and again(n):
        return zpipe.Retry(3.0)  # before the work: what its own tries cost is not what is asked here
    time.sleep({work_s})
    return payload
"""


def test_the_bound_on_unacked_messages_does_not_fill_up_with_one_in_a_hundred(make: MakePipeline) -> None:
    """The bound is a tenth of the messages: without acks of parts nothing more would come."""
    text = CONFIG.format(count=5000, more="unacked = { messages = 500 }")
    pipeline = make(text, work=WORK.format(retry=True, for_s=0, work_s=0))
    (again := pipeline.folder / "again").touch()
    run = pipeline.run()
    wait_until(lambda: pipeline.count() >= 4950, "all that need no second try are stored")
    assert run.running and pipeline.count() == 4950
    again.unlink()
    run.ledger()
    assert pipeline.count() == 5000


@pytest.mark.stress
def test_the_others_keep_their_throughput(make: MakePipeline) -> None:
    """One in a hundred is tried again for 30 s; the others come as fast as without, which takes longer than that."""
    count = 60_000
    seconds = []
    pipeline = make(CONFIG.format(count=count, more=""), work="")
    for retry in (False, True):
        (pipeline.folder / "work.py").write_text(WORK.format(retry=retry, for_s=30, work_s=0.0005))
        (pipeline.folder / "out.db").unlink(missing_ok=True)
        run = pipeline.run("--fresh")
        seconds.append(_until(pipeline, 1000, count * 98 // 100))
        run.ledger(300.0)
        assert pipeline.count() == count
    print(f"without {seconds[0]:.1f} s, with retries {seconds[1]:.1f} s: {seconds[0] / seconds[1]:.3f}")
    assert seconds[0] / seconds[1] >= 0.95


def _until(pipeline: Pipeline, first: int, last: int) -> float:
    """Seconds between so many stored messages and so many."""
    wait_until(lambda: pipeline.count() >= first, "it has begun")
    began = time.monotonic()
    wait_until(lambda: pipeline.count() >= last, f"{last} are stored", 300.0)
    return time.monotonic() - began
