"""Orders to a running pipeline: whoever gives one is named in the log of the instance that obeys."""

from __future__ import annotations

import os

from e2e_types import MakePipeline
from pipeline import ids, wait_until

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = { rate = 200 }

[stages.store]
input = "read"
plugin = "sqlite"
batch = { messages = 10, timeout = "50ms" }
options = { path = "out.db", table = "t", key = "id" }
"""


def test_who_gives_an_order_is_in_the_log(make: MakePipeline) -> None:
    pipeline = make(CONFIG)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() or not run.running, "the first rows are stored")
    wanted = []
    for what, instance in (("pause", "store"), ("resume", "store"), ("pause", "store"), ("resume", "store")):
        asking = pipeline.zpipe(what, str(pipeline.path), instance)
        assert asking.wait() == 0, asking.stderr
        wanted.append(
            f'warning store.1 event=operator.request what={what} sender="uid {os.getuid()}, pid {asking.pid}" '
        )
    draining = pipeline.zpipe("drain", str(pipeline.path))
    assert draining.wait() == 0, draining.stderr
    wanted.append(f'warning read.1 event=operator.request what=drain sender="uid {os.getuid()}, pid {draining.pid}" ')
    run.ledger()
    lines = [line for line in run.stderr.splitlines() if "event=operator.request" in line]
    assert [text for line, text in zip(lines, wanted, strict=True) if text in line] == wanted, lines
    stored = ids(pipeline.query("SELECT id FROM t ORDER BY id"))
    assert stored == list(range(len(stored)))
