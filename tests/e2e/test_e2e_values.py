"""A message of more values than are decoded at once: a dead letter where it is made, and where it arrives all the same."""

from __future__ import annotations

import pytest
from e2e_types import MakePipeline
from pipeline import ids

CONFIG = """
[pipeline]
name = "p"

[stages.make]
plugin = "generate"
options = {{ count = 10 }}

[stages.grow]
input = "make"
plugin = "python"
options = {{ function = "grow.py:grow" }}

[stages.store]
input = "grow"
plugin = "sqlite"
workers = {{ kind = "{kind}" }}
options = {{ path = "out.db", table = "t", key = "id", columns = {{ many = "TEXT" }} }}
"""
# More than a parcel, so that no other message shares its section.
GROW = """
def grow(payload):
    return payload | {"many": [{}] * 2_000_000} if payload["id"] == 4 else payload | {"many": [{}]}
"""
CARELESS = """
import sys

if "grow" in sys.argv:
    from zpipe.core.wire import cbor, msgpack

    cbor.has_more_values = msgpack.has_more_values = lambda encoded, most: False
"""
REASON = "it has more than 1000000 values"


def test_at_the_producer(make: MakePipeline) -> None:
    pipeline = make(CONFIG.format(kind="thread"), grow=GROW)
    ledger = pipeline.run().ledger()
    [(id, reason, _, attempts, payload)] = pipeline.letters("grow")
    assert id == "make:4" and REASON in reason and attempts == 1 and payload["id"] == 4
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == [n for n in range(10) if n != 4]
    assert ledger["stages"]["grow"]["dead"] == 1


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_at_a_consumer_of_a_producer_that_does_not_count(make: MakePipeline, kind: str) -> None:
    pipeline = make(CONFIG.format(kind=kind), grow=GROW, sitecustomize=CARELESS)
    pipeline.env["PYTHONPATH"] = str(pipeline.folder)
    # Started from a fork server, an instance does not look at its `sitecustomize` any more.
    ledger = pipeline.run("--no-warm").ledger()
    assert not pipeline.letters("grow")
    rows = pipeline.state("SELECT reason FROM dead_letters", "store")
    assert rows == [(f"malformed: {REASON}",)]
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == [n for n in range(10) if n != 4]
    assert ledger["stages"]["store"]["dead"] == 1
