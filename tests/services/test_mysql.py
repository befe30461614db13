"""`mysql` against MariaDB: the source by cursor, the sink by upsert."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import databases
import pymysql
import pytest
from databases import MANY, Database, Make, timed
from rows import waits_saying
from servers import MariaDB, closed_port


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
