"""`mysql` against MariaDB: the source by cursor, the sink by upsert."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import databases
import pymysql
import pytest
from databases import MANY, Database, Make, timed
from rows import waits_saying
from servers import MariaDB, closed_port

from zpipe import Message, Reject, Secret
from zpipe_plugins.databases.mysql import MysqlSink, SinkOptions


@pytest.fixture
def db(mariadb: MariaDB) -> Iterator[Database]:
    def query(statement: str) -> list[tuple[object, ...]]:
        with mariadb.connect() as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    for (table,) in query("SHOW TABLES"):
        query(f"DROP TABLE {table}")
    login = f'user = "{mariadb.account}", password = "${{MYSQL_PASSWORD}}", database = "zpipe"'
    where = f'host = "127.0.0.1", port = {mariadb.port}, {login}'
    away = where.replace(str(mariadb.port), str(closed_port(mariadb)))
    wrong = where.replace("MYSQL_PASSWORD", "WRONG_PASSWORD")
    yield Database(mariadb, "mysql", "pymysql", "mysql", where, wrong, away, "Access denied", query, query)


@pytest.fixture(autouse=True)
def passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYSQL_PASSWORD", MariaDB.password)
    monkeypatch.setenv("WRONG_PASSWORD", "a wrong one")


def test_sink_with_kills(db: Database, make: Make) -> None:
    databases.sink_with_kills(db, make)


def test_two_instances_that_write_the_same_rows_do_not_wait_for_each_other_in_a_circle(
    db: Database, make: Make
) -> None:
    deadlocks = "SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'"
    databases.same_rows(db, make, "instances = 2", lambda: db.query(deadlocks))


def test_source_with_kills(db: Database, make: Make) -> None:
    databases.source_with_kills(db, make)


def test_sink_without_service(db: Database, make: Make) -> None:
    databases.sink_without_service(db, make, "Can't connect")


def test_source_without_service(db: Database, make: Make) -> None:
    databases.source_without_service(db, make, "Can't connect")


def test_wrong_password(db: Database, make: Make) -> None:
    databases.wrong_password(db, make)


def test_what_a_person_has_to_put_right(db: Database, make: Make) -> None:
    databases.what_a_person_has_to_put_right(db, make, "doesn't exist")


def test_bad_rows(db: Database, make: Make) -> None:
    databases.bad_rows(db, make, "CONSTRAINT", "failed")


def test_checks(db: Database, make: Make) -> None:
    databases.checks(db, make)


def test_unreachable(db: Database, make: Make) -> None:
    databases.unreachable(db, make, "Connection refused")


def test_a_server_that_refuses_is_waited_for(db: Database, make: Make, mariadb: MariaDB) -> None:
    """It has no connection left."""
    db.table("filled_up")
    pipeline = make(db.sink("filled_up", 100, pace=False))
    db.execute("SET GLOBAL max_connections = 10")
    with ExitStack() as held:
        while True:
            try:
                held.callback(mariadb.connect().close)
            except pymysql.OperationalError:
                break
        run = pipeline.run()
        waits_saying(pipeline, run, "store", "Too many connections")
    run.ledger()
    db.has("filled_up", 100)


ODD_TEXT = ["plain", "it's", 'a "word"', "back\\slash", "two\nlines", "\0\x1a\r", "100 % of %s", "ümläut 🐝", "", None]


class Odd:
    def __str__(self) -> str:
        raise LookupError


@pytest.mark.parametrize("mode", ["", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES"])
def test_values_arrive_as_they_are(db: Database, mariadb: MariaDB, mode: str) -> None:
    """Of each kind, alone in its column and beside others; and names with what a statement has a meaning for."""
    db.execute(f"SET GLOBAL sql_mode = '{mode}'")
    db.execute(
        "CREATE TABLE `odd` (id BIGINT PRIMARY KEY, `per%cent` TEXT, `tick``ed` TEXT, price DOUBLE, data BLOB, more JSON, "
        "yes BOOLEAN) CHARACTER SET utf8mb4"
    )
    floats = [1.5, -0.0, 1e300, 5e-324, 0.1, None, 1e16, 123456789.123456789, -2.0, 3.0]
    rows: list[dict[str, Any]] = [
        {
            "id": 2**62 + n,
            "per%cent": ODD_TEXT[n],
            "tick`ed": "always plain",
            "price": floats[n],
            "data": bytes([n, 39, 92]),
            "more": {"a": [n, ODD_TEXT[n]]},
            "yes": n % 2 == 0,
        }
        for n in range(10)
    ]
    options = SinkOptions(
        host="127.0.0.1",
        port=mariadb.port,
        user=mariadb.account,
        password=Secret(mariadb.password),
        database="zpipe",
        table="odd",
        key=["id"],
    )
    sink, context = MysqlSink(), SimpleNamespace(options=options)
    sink.open(context)  # type: ignore[arg-type]
    try:
        for batch in (rows, rows[:1], rows[::-1]):
            assert sink.process_batch([Message(row) for row in batch], context) == [None] * len(batch)  # type: ignore[arg-type]
        large = [{"id": n, "tick`ed": str(n % 10) * 60_000} for n in range(40)]  # more than one statement
        assert sink.process_batch([Message(row) for row in large], context) == [None] * 40  # type: ignore[arg-type]
        [answer] = sink.process_batch([Message({"id": 99, "price": float("nan")})], context)  # type: ignore[arg-type]
        assert isinstance(answer, Reject) and "nan" in str(answer)
        with pytest.raises(LookupError):  # what nobody has thought of: the next batch commits no half of this one
            sink.process_batch([Message({"id": 97}), Message({"id": 98, "price": Odd()})], context)  # type: ignore[arg-type]
        assert sink.process_batch([Message({"id": 96})], context) == [None]  # type: ignore[arg-type]
        assert db.query("SELECT id FROM odd WHERE id BETWEEN 90 AND 99") == [(96,)]
    finally:
        sink.close(context)  # type: ignore[arg-type]
        db.execute("SET GLOBAL sql_mode = DEFAULT")
    found = db.query("SELECT * FROM odd WHERE id >= 100 ORDER BY id")
    for row, (id, text, ticked, price, stored, more, yes) in zip(rows, found, strict=True):
        assert (id, text, ticked, price, stored, bool(yes)) == tuple(row[name] for name in row if name != "more")
        assert json.loads(str(more)) == row["more"]
    assert db.query("SELECT count(*), sum(length(`tick``ed`)) FROM odd WHERE id < 90") == [(40, 40 * 60_000)]


def test_throughput_of_the_sink(db: Database, make: Make, mariadb: MariaDB, compare: Callable[..., None]) -> None:
    def plain() -> None:
        upsert = (
            "INSERT INTO sink_rate (id, name, price) VALUES (%s, %s, %s) "
            "ON DUPLICATE KEY UPDATE name = VALUES(name), price = VALUES(price)"
        )
        with mariadb.connect() as connection, connection.cursor() as cursor:
            connection.autocommit(False)
            for start in range(0, MANY, 1000):
                rows = [{"id": n, "name": "a name", "price": 1.5} for n in range(start, start + 1000)]
                cursor.executemany(upsert, [(row["id"], row["name"], row["price"]) for row in rows])
                connection.commit()

    def fresh() -> float:
        db.execute("TRUNCATE sink_rate")
        return timed(plain)

    compare("mysql, sink", databases.sink_rate(db, make), fresh)


def test_throughput_of_the_source(
    db: Database, make: Make, mariadb: MariaDB, compare: Callable[..., None], tmp_path: Path
) -> None:
    def plain() -> None:
        with (
            mariadb.connect() as connection,
            connection.cursor(pymysql.cursors.SSDictCursor) as cursor,
            (tmp_path / "out.ndjson").open("w") as file,
        ):
            cursor.execute("SELECT * FROM source_rate ORDER BY id")
            for row in cursor:
                file.write(json.dumps(row) + "\n")

    compare("mysql, source to ndjson", databases.source_rate(db, make), lambda: timed(plain))
