"""Windows that are killed, and single acks of a source that two instances divide, through real daemons."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from e2e_types import MakePipeline

WINDOWS = (Path(__file__).parents[2] / "examples" / "windows.py").read_text()
COUNTED = """
[pipeline]
name = "windows"

[stages.read]
plugin = "generate"
options = {{ count = {count}, rate = {rate} }}

[stages.windows]
input = "read"
plugin = "./windows.py"
options = {{ size = 50 }}

[stages.store]
input = "windows"
plugin = "sqlite"
batch = {{ messages = 100, timeout = "100ms" }}
options = {{ path = "out.db", table = "t", key = "window" }}
"""


def whole(count: int) -> list[tuple[int, int, int]]:
    """(window, count, sum) of each."""
    return [(n, 50, sum(range(n * 50, n * 50 + 50))) for n in range(count // 50)]


def killed_windows(make: MakePipeline, count: int, rate: int, kills: int, seed: int) -> None:
    pipeline = make(COUNTED.format(count=count, rate=rate), windows=WINDOWS)
    run = pipeline.run()
    killed = pipeline.kill_at_random(run, random.Random(seed), kills, (0.1, 0.6))
    ledger = run.ledger(120)
    assert len(killed) >= kills * 3 // 4, killed
    assert pipeline.query('SELECT "window", "count", "sum" FROM t ORDER BY 1') == whole(count)
    assert ledger["stages"]["windows"]["in_process"] == 0


def test_windows_are_exact_whoever_is_killed(make: MakePipeline) -> None:
    killed_windows(make, count=6000, rate=1500, kills=6, seed=1)


@pytest.mark.stress
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(4))
def test_windows_are_exact_through_many_kills(make: MakePipeline, seed: int) -> None:
    killed_windows(make, count=60_000, rate=1500, kills=50, seed=seed)


QUEUE = """
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zpipe
from zpipe.messages import BadRecord


class Queue(zpipe.Source[None, None]):
    def traits(self, options: None, config_dir: Path) -> zpipe.Traits:
        return zpipe.Traits(divides=True)

    async def open(self, context: zpipe.Context[None]) -> None:
        self.acked = (context.config_dir / f"acked.{context.instance}").open("a")

    async def source(self, context: zpipe.Context[None]):
        for n in range(context.instance, 3001, context.instances):
            yield zpipe.Message(BadRecord("odd one", "x") if n == 77 else {"n": n}, id=f"m{n}")

    async def ack(self, ids: list[str], context: zpipe.Context[None]) -> None:
        self.acked.write("".join(f"{id}\\n" for id in ids))

    async def close(self, context: zpipe.Context[None]) -> None:
        self.acked.close()
"""
ACKED = """
[pipeline]
name = "acked"

[stages.read]
plugin = "./queue_source.py"
instances = 2

[stages.split]
input = "read"
plugin = "python"
options = { function = "work.py:split" }

[stages.store]
input = "split"
plugin = "sqlite"
batch = { messages = 100, timeout = "100ms" }
options = { path = "out.db", table = "t", key = "id" }
"""
SPLIT = "def split(payload):\n  for part in range(payload['n'] % 3):\n    yield {'id': f\"{payload['n']}.{part}\"}\n"


def test_a_divided_source_hears_once_of_each_message(make: MakePipeline) -> None:
    pipeline = make(ACKED, queue_source=QUEUE, work=SPLIT)
    ledger = pipeline.run().ledger()
    assert ledger["stages"]["read"]["received"] == 3000 and ledger["stages"]["read"]["dead"] == 1
    for instance in (1, 2):
        acked = (pipeline.folder / f"acked.{instance}").read_text().split()
        assert sorted(acked) == sorted(f"m{n}" for n in range(instance, 3001, 2)), (
            "also the dead one, and what became nothing"
        )
    assert pipeline.count() == sum(n % 3 for n in range(1, 3001) if n != 77)
