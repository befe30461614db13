"""`postgres` against PostgreSQL: the source by cursor and by LISTEN, the sink by COPY."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import databases
import psycopg
import pytest
from databases import MANY, Database, Make, timed
from pipeline import wait_until
from rows import waits_saying
from servers import PostgreSQL, closed_port

TWO = "workers = { count = 2 }"


@pytest.fixture
def db(postgresql: PostgreSQL) -> Iterator[Database]:
    writes = "-c default_transaction_read_only=off"

    def query(statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(postgresql.dsn, autocommit=True, options=writes) as connection:
            found = connection.execute(statement)
            return found.fetchall() if found.description else []

    where = f'dsn = "{postgresql.dsn}"'
    away = where.replace(f"port={postgresql.port}", f"port={closed_port(postgresql)}")
    wrong = where.replace(postgresql.password, "a wrong one")
    denied = "password authentication failed"
    query("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    yield Database(postgresql, "postgres", "psycopg", "postgres", where, wrong, away, denied, query, query)


def test_sink_with_kills(db: Database, make: Make) -> None:
    databases.sink_with_kills(db, make)


def test_two_workers_have_a_connection_each(db: Database, make: Make, postgresql: PostgreSQL) -> None:
    """Both wait for the table at once. The loss of one connection costs its batch a try, and the other nothing."""
    db.table("divided")
    pipeline = make(db.sink("divided", 20_000, pace=False, more=TWO))
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with psycopg.connect(postgresql.dsn) as held:
        held.execute("LOCK TABLE divided IN SHARE MODE")
        run = pipeline.run()
        wait_until(lambda: len(db.query(waiting)) == 2, "two connections write")
        db.query(f"SELECT pg_terminate_backend({db.query(waiting)[0][0]})")
    ledger = run.ledger()
    assert all(row["restarts"] == row["dead"] == 0 for row in ledger["stages"].values()), ledger
    db.has("divided", 20_000)


def test_two_workers_that_write_the_same_rows_do_not_wait_for_each_other_in_a_circle(db: Database, make: Make) -> None:
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    databases.same_rows(db, make, TWO, lambda: db.query(deadlocks))


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


def test_a_server_that_refuses_is_waited_for(db: Database, make: Make, postgresql: PostgreSQL) -> None:
    """It has no connection left, and then takes no writes."""
    db.table("filled_up")
    pipeline = make(db.sink("filled_up", 100, pace=False))
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(psycopg.connect(postgresql.dsn))
            except psycopg.OperationalError:
                break
        run = pipeline.run()
        waits_saying(pipeline, run, "store", "too many clients already")
    run.ledger()
    db.has("filled_up", 100)
    db.execute("TRUNCATE filled_up")
    db.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    db.execute("SELECT pg_reload_conf()")
    try:
        wait_until(lambda: _read_only(postgresql), "it takes no writes")
        run = pipeline.run("--fresh")
        waits_saying(pipeline, run, "store", "read-only transaction")
    finally:
        db.execute("ALTER SYSTEM RESET default_transaction_read_only")
        db.execute("SELECT pg_reload_conf()")
    run.ledger()
    db.has("filled_up", 100)


def _read_only(postgresql: PostgreSQL) -> bool:
    with psycopg.connect(postgresql.dsn) as connection:
        return connection.execute("SHOW default_transaction_read_only").fetchone() == ("on",)


def test_a_notification_brings_a_row_at_once(db: Database, make: Make) -> None:
    db.filled("heard", 10)
    pipeline = make(db.source("heard", ', listen = "heard_rows", poll = "1h"', pace=False))
    run = pipeline.run()
    wait_until(lambda: pipeline.count() == 10, "the rows got through")
    wait_until(
        lambda: db.query("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%LISTEN%'")[0][0], "it listens"
    )
    for number in range(10, 13):
        db.execute(f"INSERT INTO heard VALUES ({number}, 'late', 0)")
        db.execute("NOTIFY heard_rows")
        wait_until(lambda number=number: pipeline.count() == number + 1, "the row got through", 20)
    run.interrupt()
    run.ledger()


def test_two_columns_are_a_cursor_and_values_are_plain(db: Database, make: Make) -> None:
    db.execute(
        "CREATE TABLE changed (at timestamptz, id int, amount numeric, tags text[], more jsonb, PRIMARY KEY (at, id))"
    )
    for at, number in (("2026-01-01 10:00+00", 2), ("2026-01-01 10:00+00", 1), ("2026-01-01 09:00+00", 3)):
        db.execute(f"""INSERT INTO changed VALUES ('{at}', {number}, 1.10, '{{a,b}}', '{{"x": [1]}}')""")
    text = db.source("changed", pace=False).replace('["id"]', '["at", "id"], page = 1, where = "id % 10 < 9"')
    text = text.replace('"sqlite"', '"ndjson"').replace(
        'path = "out.db", table = "t", key = "id"', 'path = "out.ndjson"'
    )
    pipeline = make(text)
    pipeline.run().ledger()
    lines = pipeline.lines("out.ndjson")
    assert [line["id"] for line in lines] == [3, 1, 2]
    assert lines[0]["at"].startswith("2026-01-01T") and pipeline.position("read") == [lines[-1]["at"], 2]
    assert [lines[0][name] for name in ("amount", "tags", "more")] == ["1.10", ["a", "b"], {"x": [1]}]


def plain_rate(db: Database) -> float:
    """Messages a second of a plain script."""

    def plain() -> None:
        with (
            psycopg.connect(db.where.removeprefix('dsn = "').removesuffix('"')) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("CREATE TEMP TABLE staging (LIKE sink_rate) ON COMMIT DELETE ROWS")
            connection.commit()
            for start in range(0, MANY, 1000):
                rows = [{"id": n, "name": "a name", "price": 1.5} for n in range(start, start + 1000)]
                with cursor.copy("COPY staging (id, name, price) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row((row["id"], row["name"], row["price"]))
                cursor.execute(
                    "INSERT INTO sink_rate SELECT * FROM staging ON CONFLICT (id) DO UPDATE SET "
                    "name = excluded.name, price = excluded.price"
                )
                connection.commit()

    db.execute("TRUNCATE sink_rate")
    return timed(plain)


def test_throughput_of_the_sink(db: Database, make: Make, compare: Callable[..., None]) -> None:
    compare("postgres, sink", databases.sink_rate(db, make), lambda: plain_rate(db))


def test_throughput_of_the_sink_with_two_workers(db: Database, make: Make, compare: Callable[..., None]) -> None:
    """Each with a connection of its own, beside the same plain script, which has one."""
    compare("postgres, sink, two workers", databases.sink_rate(db, make, TWO), lambda: plain_rate(db))


def test_throughput_of_the_source(db: Database, make: Make, compare: Callable[..., None], tmp_path: Path) -> None:
    def plain() -> None:
        with (
            psycopg.connect(db.where.removeprefix('dsn = "').removesuffix('"')) as connection,
            connection.cursor("c", row_factory=psycopg.rows.dict_row) as cursor,
            (tmp_path / "out.ndjson").open("w") as file,
        ):
            cursor.itersize = 1000
            for row in cursor.execute("SELECT * FROM source_rate ORDER BY id"):
                file.write(json.dumps(row) + "\n")

    compare("postgres, source to ndjson", databases.source_rate(db, make), lambda: timed(plain))
