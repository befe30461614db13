"""`parquet`: 50,000 messages and ten `kill -9` through real daemons, and what it costs beside a plain script with pyarrow."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from databases import Make, timed
from pipeline import Pipeline
from rows import MESSAGES, PACE, committed, rate_of_run, run_with_kills

SINK = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
unacked = {{ messages = {unacked} }}
options = {{ count = {count}{rate}, fields = {{ name = "a name", price = 1.5 }} }}

[stages.store]
input = "read"
plugin = "parquet"
batch = {{ messages = {batch}, timeout = "200ms" }}
queue = {{ messages = {queue} }}
workers = {{ kind = "process", count = 2 }}
options = {{ folder = "out" }}
"""
SOURCE = """
[pipeline]
name = "p"

[stages.read]
plugin = "parquet"
options = {{ paths = ["in/*.parquet"] }}

[stages.store]
input = "read"
plugin = "{plugin}"
batch = {{ messages = {batch}, timeout = "50ms" }}
{limit}
options = {{ {where} }}
"""
BATCH = 1000
MANY = 500_000
BIG = 5000
"""Messages in a file, where the throughput is measured: a file costs as much as some hundred rows."""


def sink(count: int, pace: bool = True, batch: int = BATCH) -> str:
    rate = f", rate = {PACE}" if pace else ""
    return SINK.format(count=count, rate=rate, batch=batch, queue=4 * batch, unacked=8 * batch)


def rows_of(folder: Path) -> pa.Table:
    """All of them, and every file in the folder is a whole one."""
    return pa.concat_tables([pq.read_table(path) for path in folder.iterdir()])


def fill(folder: Path, rows: int, file: int = 5000, group: int = 700) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, rows, file):
        ids = range(start, min(start + file, rows))
        table = pa.table({"id": list(ids), "name": ["a name"] * len(ids), "price": [1.5] * len(ids)})
        pq.write_table(table, folder / f"{start:09}.parquet", row_group_size=group)


def test_sink_with_kills(make: Make) -> None:
    pipeline = make(sink(MESSAGES))
    run_with_kills(pipeline, committed(pipeline, "read"))
    found = rows_of(pipeline.folder / "out").to_pydict()
    pairs = set(zip(found["zpipe_id"], found["id"], strict=True))
    assert pairs == {(f"read:{n}", n) for n in range(MESSAGES)}
    assert set(found["name"]) == {"a name"} and set(found["price"]) == {1.5}


def test_source_with_kills(make: Make) -> None:
    limit = f"limit = {{ rate = {PACE // 100} }}"
    where = 'path = "out.db", table = "t", key = "id"'
    pipeline = make(SOURCE.format(plugin="sqlite", batch=100, limit=limit, where=where))
    fill(pipeline.folder / "in", MESSAGES)
    run_with_kills(pipeline, pipeline.count)
    assert pipeline.query("SELECT count(*), min(id), max(id) FROM t") == [(MESSAGES, 0, MESSAGES - 1)]
    assert pipeline.query("SELECT count(*) FROM t WHERE name = 'a name' AND price = 1.5") == [(MESSAGES,)]


def clear(pipeline: Pipeline, folder: str) -> None:
    for path in (pipeline.folder / folder).glob("*"):
        path.unlink()


def test_throughput_of_the_sink(make: Make, compare: Callable[..., None], tmp_path: Path) -> None:
    pipeline = make(sink(MANY, pace=False, batch=BIG))

    def ours() -> float:
        clear(pipeline, "out")
        return rate_of_run(pipeline, committed(pipeline, "read"), MANY)

    def plain() -> None:
        """The same columns, each file and its name on the disk before the next is begun."""
        folder = os.open(tmp_path, os.O_RDONLY)
        for start in range(0, MANY, BIG):
            rows = [
                {"zpipe_id": f"read:{n}", "id": n, "name": "a name", "price": 1.5} for n in range(start, start + BIG)
            ]
            with (tmp_path / "aside").open("wb") as file:
                pq.write_table(pa.Table.from_pylist(rows), file)
                file.flush()
                os.fsync(file.fileno())
            (tmp_path / "aside").rename(tmp_path / f"{start}.parquet")
            os.fsync(folder)
        os.close(folder)

    compare("parquet, sink", ours, lambda: timed(plain, MANY))


def test_throughput_of_the_source(make: Make, compare: Callable[..., None], tmp_path: Path) -> None:
    """Into a file of NDJSON."""
    pipeline = make(SOURCE.format(plugin="ndjson", batch=1000, limit="", where='path = "out.ndjson"'))
    fill(pipeline.folder / "in", MANY, BIG, BIG)

    def ours() -> float:
        (pipeline.folder / "out.ndjson").unlink(missing_ok=True)

        def progress() -> int | None:
            position = pipeline.position("read")
            return None if position is None else int(Path(position[0]).stem) + position[1] + 1

        return rate_of_run(pipeline, progress, MANY)

    def plain() -> None:
        with (tmp_path / "plain.ndjson").open("w") as out:
            for path in sorted((pipeline.folder / "in").iterdir()):
                for batch in pq.ParquetFile(path).iter_batches(1000):
                    out.write("".join(json.dumps(row) + "\n" for row in batch.to_pylist()))
                    out.flush()
                    os.fsync(out.fileno())

    compare("parquet, source", ours, lambda: timed(plain, MANY))
