"""`sql` against PostgreSQL and SQLite, by SQLAlchemy."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import databases
import psycopg
import pytest
import sqlalchemy as sa
from databases import MANY, Database, Make, timed
from rows import MESSAGES, run_with_kills, waits_saying
from servers import PostgreSQL, closed_port


def engine_of(db: Database) -> sa.Engine:
    url = sa.make_url(db.where.split('"')[1]).set(password=PostgreSQL.password)
    return sa.create_engine(url, poolclass=sa.NullPool)


@pytest.fixture
def db(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    def query(statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(postgresql.dsn, autocommit=True) as connection:
            found = connection.execute(statement)
            return found.fetchall() if found.description else []

    monkeypatch.setenv("SQL_PASSWORD", postgresql.password)
    monkeypatch.setenv("WRONG_PASSWORD", "a wrong one")
    url = f"postgresql+psycopg://{postgresql.superuser}@127.0.0.1:{postgresql.port}/postgres"
    where = f'url = "{url}", password = "${{SQL_PASSWORD}}"'
    away = where.replace(str(postgresql.port), str(closed_port(postgresql)))
    wrong = where.replace("SQL_PASSWORD", "WRONG_PASSWORD")
    denied = "password authentication failed"
    query("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    yield Database(postgresql, "sql", "sqlalchemy", "sql", where, wrong, away, denied, query, query)


def test_sink_with_kills(db: Database, make: Make) -> None:
    databases.sink_with_kills(db, make)


def test_source_with_kills(db: Database, make: Make) -> None:
    databases.source_with_kills(db, make)


def test_sink_without_service(db: Database, make: Make) -> None:
    databases.sink_without_service(db, make, "refused")


def test_source_without_service(db: Database, make: Make) -> None:
    databases.source_without_service(db, make, "refused")


def test_wrong_password(db: Database, make: Make) -> None:
    databases.wrong_password(db, make)


def test_what_a_person_has_to_put_right(db: Database, make: Make) -> None:
    databases.what_a_person_has_to_put_right(db, make, "does not exist")


def test_bad_rows(db: Database, make: Make) -> None:
    databases.bad_rows(db, make, "violates check constraint")


def test_checks(db: Database, make: Make) -> None:
    databases.checks(db, make)


def test_unreachable(db: Database, make: Make) -> None:
    databases.unreachable(db, make, "refused")


BOTH = """
[pipeline]
name = "p"

[stages.read]
plugin = "sql"
options = {{ url = "sqlite:///in.db", table = "t", cursor = ["id"] }}

[stages.store]
input = "read"
plugin = "sql"
batch = {{ messages = 100, timeout = "50ms" }}
{limit}
options = {{ url = "sqlite:///out.db", table = "t", key = ["id"] }}
"""


def test_sqlite_with_kills_of_both_ends(make: Make) -> None:
    pipeline = make(BOTH.format(limit="limit = { rate = 60 }"))
    for name, rows in (("in.db", MESSAGES), ("out.db", 0)):
        with closing(sqlite3.connect(pipeline.folder / name)) as connection, connection:
            connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)")
            connection.executemany("INSERT INTO t VALUES (?, 'a name')", ((n,) for n in range(rows)))
    run_with_kills(pipeline, pipeline.count)
    found = pipeline.query("SELECT count(*), min(id), max(id), min(name), max(name) FROM t")
    assert found == [(MESSAGES, 0, MESSAGES - 1, "a name", "a name")]


def test_a_locked_sqlite_is_waited_for(make: Make) -> None:
    pipeline = make(BOTH.format(limit="").replace("sqlite:///out.db", "sqlite:///out.db?timeout=0.1"))
    for name, rows in (("in.db", 100), ("out.db", 0)):
        with closing(sqlite3.connect(pipeline.folder / name)) as connection, connection:
            connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
            connection.executemany("INSERT INTO t VALUES (?)", ((n,) for n in range(rows)))
    with closing(sqlite3.connect(pipeline.folder / "out.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        run = pipeline.run()
        waits_saying(pipeline, run, "store", "database is locked")
        connection.execute("ROLLBACK")
    run.ledger()
    assert pipeline.count() == 100


def test_throughput_of_the_sink(db: Database, make: Make, compare: Callable[..., None]) -> None:
    def plain() -> None:
        engine = engine_of(db)
        with engine.connect() as connection:
            table = sa.Table("sink_rate", sa.MetaData(), autoload_with=connection)
            connection.commit()
            insert = sa.dialects.postgresql.insert(table)
            upsert = insert.on_conflict_do_update(
                index_elements=["id"], set_={name: insert.excluded[name] for name in ("name", "price")}
            )
            for start in range(0, MANY, 1000):
                rows = [{"id": n, "name": "a name", "price": 1.5} for n in range(start, start + 1000)]
                connection.execute(upsert, rows)
                connection.commit()

    def fresh() -> float:
        db.execute("TRUNCATE sink_rate")
        return timed(plain)

    compare("sql, sink on PostgreSQL", databases.sink_rate(db, make), fresh)


def test_throughput_of_the_source(db: Database, make: Make, compare: Callable[..., None], tmp_path: Path) -> None:
    def plain() -> None:
        engine = engine_of(db)
        with engine.connect() as connection, (tmp_path / "out.ndjson").open("w") as file:
            rows = connection.execution_options(yield_per=1000).execute(
                sa.text("SELECT * FROM source_rate ORDER BY id")
            )
            for row in rows.mappings():
                file.write(json.dumps(dict(row)) + "\n")

    compare("sql, source to ndjson", databases.source_rate(db, make), lambda: timed(plain))
