"""What is asked of every plugin that reads and writes tables, of whichever database."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline import Pipeline, wait_until
from rows import (
    MESSAGES,
    PACE,
    check_says,
    committed,
    fails_saying,
    rate_of_run,
    run_with_kills,
    run_without_service,
    waits_saying,
)
from server import Server

Make = Callable[..., Pipeline]
MANY = 100_000
"""Rows for the throughput."""

SINK = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = {{ count = {count}{rate}, fields = {{ name = "a name", price = 1.5 }} }}

[stages.store]
input = "read"
plugin = "{plugin}"
batch = {{ messages = {batch}, timeout = "100ms" }}
{more}
options = {{ {where}, table = "{table}", key = ["id"] }}
"""
SOURCE = """
[pipeline]
name = "p"

[stages.read]
plugin = "{plugin}"
options = {{ {where}, table = "{table}", cursor = ["id"]{more} }}

[stages.store]
input = "read"
plugin = "sqlite"
batch = {{ messages = 100, timeout = "50ms" }}
{limit}
options = {{ path = "out.db", table = "t", key = "id" }}
"""

SHUFFLED = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = {{ count = 40_000, fields = {{ name = "a name", price = 1.5 }} }}

[stages.shuffle]
input = "read"
plugin = "python"
options = {{ function = "work.py:work" }}

[stages.store]
input = "shuffle"
plugin = "{plugin}"
batch = {{ messages = 500, timeout = "100ms" }}
{two}
options = {{ {where}, table = "same", key = ["id"] }}
"""
SHUFFLE = """
from random import Random


def work(row):
    return {**row, "id": Random(row["id"]).randrange(1000)}
"""


@dataclass
class Database:
    """A database of a running server.

    plugin, library, extra  the plugin, the module that it imports, and the extra that brings it
    where      options that say where it is, as TOML;  wrong: with a password that is not right;  away: where nobody is
    denied     what a server says to a wrong password
    execute    runs a statement;  query: and gives its rows
    """

    server: Server
    plugin: str
    library: str
    extra: str
    where: str
    wrong: str
    away: str
    denied: str
    execute: Callable[[str], object]
    query: Callable[[str], list[tuple[Any, ...]]]

    def table(self, name: str, more: str = "") -> None:
        self.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY, name VARCHAR(100), price DOUBLE PRECISION{more})")

    def filled(self, name: str, rows: int) -> None:
        """A table with ids from 0."""
        self.table(name)
        for start in range(0, rows, 10_000):
            values = ", ".join(f"({n}, 'a name', 1.5)" for n in range(start, min(rows, start + 10_000)))
            self.execute(f"INSERT INTO {name} VALUES {values}")

    def has(self, name: str, rows: int) -> None:
        """It has the ids from 0, each once."""
        found = self.query(f"SELECT count(*), min(id), max(id) FROM {name} WHERE name = 'a name' AND price = 1.5")
        assert [tuple(map(int, row)) for row in found] == [(rows, 0, rows - 1)]

    def sink(self, table: str, count: int, pace: bool = True, more: str = "", where: str = "", batch: int = 500) -> str:
        rate = f", rate = {PACE}" if pace else ""
        where = where or self.where
        return SINK.format(plugin=self.plugin, where=where, table=table, count=count, rate=rate, more=more, batch=batch)

    def source(self, table: str, more: str = "", pace: bool = True, where: str = "") -> str:
        limit = f"limit = {{ rate = {PACE // 100} }}" if pace else ""  # batches
        return SOURCE.format(plugin=self.plugin, where=where or self.where, table=table, more=more, limit=limit)


def sink_with_kills(db: Database, make: Make) -> None:
    db.table("sink_kills")
    pipeline = make(db.sink("sink_kills", MESSAGES))
    run_with_kills(pipeline, committed(pipeline, "read"), server=db.server)
    db.has("sink_kills", MESSAGES)


def same_rows(db: Database, make: Make, two: str, deadlocks: Callable[[], object]) -> None:
    """`two` connections are written by. Each batch has many of all rows, in an order of its own."""
    db.filled("same", 1000)
    pipeline = make(SHUFFLED.format(plugin=db.plugin, where=db.where, two=two), work=SHUFFLE)
    before = deadlocks()
    pipeline.run().ledger()
    db.has("same", 1000)
    assert deadlocks() == before


def source_with_kills(db: Database, make: Make) -> None:
    db.filled("source_kills", MESSAGES)
    pipeline = make(db.source("source_kills"))
    run_with_kills(pipeline, pipeline.count, server=db.server)
    assert pipeline.query("SELECT count(*), min(id), max(id) FROM t") == [(MESSAGES, 0, MESSAGES - 1)]
    assert pipeline.query("SELECT count(*) FROM t WHERE name = 'a name' AND price = 1.5") == [(MESSAGES,)]


def sink_without_service(db: Database, make: Make, *words: str) -> None:
    db.table("sink_away")
    pipeline = make(db.sink("sink_away", 20_000))
    run_without_service(pipeline, "store", db.server, committed(pipeline, "read"), 5000, *words)
    db.has("sink_away", 20_000)


def source_without_service(db: Database, make: Make, *words: str) -> None:
    """A source that follows its table: the server goes, comes back, and then has more rows."""
    db.filled("source_away", 5000)
    pipeline = make(db.source("source_away", ', poll = "100ms"'))
    run = pipeline.run()
    wait_until(lambda: pipeline.count() == 5000, "all rows got through")
    db.server.kill()
    waits_saying(pipeline, run, "read", f"it waits for {db.plugin}", *words, "next try in")
    db.server.start()
    db.execute("INSERT INTO source_away VALUES (5000, 'late', 0)")
    wait_until(lambda: pipeline.count() == 5001, "the late row got through")
    run.interrupt()
    ledger = run.ledger()
    assert all(row["restarts"] == row["dead"] == 0 for row in ledger["stages"].values()), ledger
    assert pipeline.position("read") == 5000


def wrong_password(db: Database, make: Make) -> None:
    db.filled("denied", 1)
    for text in (db.sink("denied", 10, where=db.wrong), db.source("denied", where=db.wrong)):
        pipeline = make(text)
        fails_saying(pipeline, db.denied)
        pipeline.kill_all()
        _remove(pipeline)


def what_a_person_has_to_put_right(db: Database, make: Make, no_table: str) -> None:
    for text in (db.sink("not_there", 10), db.source("not_there")):
        pipeline = make(text)
        said = fails_saying(pipeline, "not_there", no_table)
        assert "event=plugin.failed" in said or "event=source.failed" in said
        _remove(pipeline)


def bad_rows(db: Database, make: Make, *words: str) -> None:
    """The rows that the database refuses are dead letters with its own words, and the others of their batches are stored."""
    db.table("strict", ", CHECK (id <> 77)")
    pipeline = make(db.sink("strict", 500, pace=False))
    run = pipeline.run()
    ledger = run.ledger()
    assert ledger["stages"]["store"]["dead"] == 1
    ((_, reason, _, _, payload),) = pipeline.letters("store")
    assert payload["id"] == 77 and all(word in reason for word in words), reason
    assert db.query("SELECT count(*) FROM strict WHERE id < 500") == [(499,)]


def checks(db: Database, make: Make) -> None:
    """`zpipe check` needs no service; it finds a wrong option, and says what to install."""
    pipeline = make(db.source("t", where=db.away))
    check_says(pipeline, 0)
    pipeline.path.write_text(db.source("t", ", pages = 7"))
    check_says(pipeline, 2, "pages", "did you mean 'page'?")
    hide(pipeline, db.library)
    for text in (db.source("t"), db.sink("t", 1)):
        pipeline.path.write_text(text)
        check_says(
            pipeline, 2, f"it needs {db.library}, which is not installed: pip install 'zpipe-stages[{db.extra}]'"
        )


def unreachable(db: Database, make: Make, *words: str) -> None:
    for stage, text in (("store", db.sink("t", 10, where=db.away)), ("read", db.source("t", where=db.away))):
        pipeline = make(text)
        run = pipeline.run()
        waits_saying(pipeline, run, stage, *words)
        pipeline.kill_all()
        _remove(pipeline)


def sink_rate(db: Database, make: Make, more: str = "") -> Callable[[], float]:
    pipeline = make(db.sink("sink_rate", MANY, pace=False, more=more, batch=1000))

    def rate() -> float:
        db.execute("DROP TABLE IF EXISTS sink_rate")
        db.table("sink_rate")
        measured = rate_of_run(pipeline, committed(pipeline, "read"), MANY)
        db.has("sink_rate", MANY)
        return measured

    return rate


def source_rate(db: Database, make: Make) -> Callable[[], float]:
    """Rows of a table into a file of NDJSON."""
    db.filled("source_rate", MANY)
    text = db.source("source_rate", pace=False)
    text = text.replace('plugin = "sqlite"', 'plugin = "ndjson"')
    text = text.replace('{ path = "out.db", table = "t", key = "id" }', '{ path = "out.ndjson" }')
    text = text.replace("messages = 100,", "messages = 1000,")
    pipeline = make(text)

    def rate() -> float:
        (pipeline.folder / "out.ndjson").unlink(missing_ok=True)
        measured = rate_of_run(pipeline, committed(pipeline, "read"), MANY)
        assert [line["id"] for line in pipeline.lines("out.ndjson")] == list(range(MANY))
        return measured

    return rate


def timed(work: Callable[[], object], messages: int = MANY) -> float:
    """Messages a second."""
    began = time.monotonic()
    work()
    return messages / (time.monotonic() - began)


def hide(pipeline: Pipeline, library: str) -> None:
    """For the commands of this pipeline the library is not installed."""
    hidden = pipeline.folder / "hidden"
    hidden.mkdir()
    hidden.joinpath("sitecustomize.py").write_text(f"import sys\nsys.modules[{library!r}] = None\n")
    pipeline.env["PYTHONPATH"] = str(hidden)


def _remove(pipeline: Pipeline) -> None:
    """So that the next can be made in its place."""
    shutil.rmtree(pipeline.folder)
    shutil.rmtree(pipeline.home / "s", ignore_errors=True)
