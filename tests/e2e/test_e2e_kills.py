"""`kill -9` of anything at any moment: nothing is lost, and an idempotent sink has each message once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from e2e_types import MakePipeline
from pipeline import Pipeline, ids, wait_until
from ports import free_ports

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

THREE_STAGES = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = {{ count = {count}, rate = {rate} }}

[stages.square]
input = "read"
plugin = "python"
options = {{ function = "squares.py:square" }}

[stages.store]
input = "square"
plugin = "sqlite"
batch = {{ messages = 200, timeout = "100ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""


def kill_often(make: MakePipeline, count: int, rate: int, kills: int, seed: int, ports: Sequence[int] = ()) -> None:
    """Kills random stages; each of `count` messages must be stored once all the same. Over tcp if there are `ports`."""
    text = THREE_STAGES.format(count=count, rate=rate)
    for stage, port in zip(("read", "square", "store"), ports, strict=False):
        text = text.replace(f"[stages.{stage}]", f'[stages.{stage}]\nlisten = "tcp://127.0.0.1:{port}"')
    if ports:
        text += "[security]\ninsecure = true\n"
    pipeline = make(text, squares=SQUARES.format(last=count - 1))
    run = pipeline.run()
    wait_until(lambda: pipeline.count() or not run.running, "the first rows are stored")
    killed = pipeline.kill_at_random(run, random.Random(seed), kills, (0.3, 1.0))
    (pipeline.folder / "killed").touch()
    assert len(killed) == kills, f"the run ended after {len(killed)} of {kills} kills: {run.stderr}"
    ledger = run.ledger()
    assert {stage for stage, _ in killed} == set(pipeline.config.stages)
    restarts = {stage: row["restarts"] for stage, row in ledger["stages"].items()}
    assert restarts == Counter(stage for stage, _ in killed)
    assert pipeline.query("SELECT count(*), min(id), max(id) FROM t") == [(count, 0, count - 1)]
    assert pipeline.query("SELECT count(*) FROM t WHERE square != id * id") == [(0,)]
    assert pipeline.position("read") == count - 1


def test_random_kills_lose_nothing(make: MakePipeline) -> None:
    kill_often(make, count=60_000, rate=6000, kills=8, seed=1)


def test_random_kills_lose_nothing_over_tcp(make: MakePipeline) -> None:
    kill_often(make, count=40_000, rate=6000, kills=6, seed=2, ports=free_ports(3))


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(5))
def test_many_random_kills_lose_nothing(make: MakePipeline, seed: int) -> None:
    kill_often(make, count=200_000, rate=12_000, kills=15, seed=seed)


def test_killed_tree_continues_from_its_position(make: MakePipeline) -> None:
    count = 20_000
    pipeline = make(THREE_STAGES.format(count=count, rate=8000), squares=SQUARES.format(last=count - 1))
    pipeline.run()
    wait_until(lambda: (pipeline.position("read") or 0) > 4000, "a position is committed")
    pipeline.kill_all()
    position = pipeline.position("read")
    stored = pipeline.count()
    assert position < stored < count, "what is committed is stored, and it was cut"
    (pipeline.folder / "killed").touch()

    second = pipeline.run().ledger()
    assert second["stages"]["read"]["received"] == count - position - 1
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(count))


def test_completed_run_starts_over_and_fresh_forgets(make: MakePipeline) -> None:
    count = 3000
    pipeline = make(THREE_STAGES.format(count=count, rate=1_000_000), squares=SQUARES.format(last=count - 1))
    (pipeline.folder / "killed").touch()
    for _ in range(2):
        assert pipeline.run().ledger()["stages"]["read"]["received"] == count

    (pipeline.folder / "killed").unlink()
    cut = pipeline.run()
    wait_until(
        lambda: pipeline.state("SELECT 1 FROM position WHERE completed_by IS NULL AND finished > 500", "read"), "cut"
    )
    pipeline.kill_all()
    assert not cut.running
    (pipeline.folder / "killed").touch()
    assert pipeline.run("--fresh").ledger()["stages"]["read"]["received"] == count
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(count))


ENDLESS = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = { rate = 3000, size = 200 }

[stages.plain]
input = "read"
plugin = "python"
options = { function = "plain.py:plain" }

[stages.rows]
input = "plain"
plugin = "sqlite"
batch = { messages = 50, timeout = "50ms" }
options = { path = "out.db", table = "t", key = "id" }

[stages.lines]
input = "plain"
plugin = "ndjson"
batch = { messages = 50, timeout = "50ms" }
options = { path = "out.ndjson" }
"""
PLAIN = """
def plain(payload):
    return {"id": payload["id"], "text": "x" * 400}
"""


def test_killed_while_writing(make: MakePipeline) -> None:
    """The sinks leave no torn line and no half transaction; the source's position is never ahead of them."""
    pipeline = make(ENDLESS, plain=PLAIN)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() or not run.running, "the first rows are stored")
    chance = random.Random(6)
    for victim in ["lines", "rows", "read"] * 3:
        assert not run.over_within(chance.uniform(0.05, 0.5)), run.stderr
        pipeline.kill(victim)
    run.interrupt()
    run.ledger()
    assert_all_written(pipeline)


def test_source_killed_again_and_again(make: MakePipeline) -> None:
    """Its position only grows, whatever moment of its commits a kill hits."""
    pipeline = make(ENDLESS, plain=PLAIN)
    run = pipeline.run()
    chance = random.Random(7)
    positions = [0]
    while len(positions) <= 6:
        wait_until(
            lambda: (pipeline.position("read") or 0) > positions[-1] or not run.running, "a position is committed"
        )
        assert not run.over_within(chance.uniform(0.0, 0.2)), run.stderr
        pipeline.kill("read")
        positions.append(pipeline.position("read"))
    run.interrupt()
    ledger = run.ledger()
    assert positions == sorted(positions)
    assert ledger["stages"]["read"]["restarts"] == 6
    assert_all_written(pipeline)


def assert_all_written(pipeline: Pipeline) -> None:
    """Every id is in both sinks: once in the table, at least once in the file.

    A source that is killed and then drained at once has not emitted again what its last life had under way, of which only
    a part was stored: the position is behind that, and the next run has it all.
    """
    highest = pipeline.query("SELECT max(id) FROM t")[0][0]
    run = pipeline.run()
    wait_until(lambda: (pipeline.position("read") or 0) > highest or not run.running, "the position is beyond all rows")
    run.interrupt()
    run.ledger()
    count = pipeline.position("read") + 1
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(count))
    lines = pipeline.lines("out.ndjson")
    assert {line["id"] for line in lines} == set(range(count))
    assert all(line["text"] == "x" * 400 for line in lines)
