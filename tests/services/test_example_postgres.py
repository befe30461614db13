"""The sink of `examples/postgres.py`, and the server that all tests of databases stand on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from servers import PostgreSQL, closed_port

from zpipe import Message, Throttled, plugin_loading
from zpipe.testing import make_context

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_it_keeps_each_row_once(postgresql: PostgreSQL, tmp_path: Path) -> None:
    loaded = plugin_loading.load("./postgres.py", EXAMPLES)
    store = loaded.hooks["zpipe_process_batch"]

    def context(dsn: str) -> Any:
        assert loaded.options_type is not None
        return make_context(loaded.options_type(dsn, "example", "id", ["id", "title"]), config_dir=tmp_path)

    here = context(postgresql.dsn)
    with psycopg.connect(postgresql.dsn) as connection:
        connection.execute("CREATE TABLE example (id int PRIMARY KEY, title text)")
    rows = [Message({"id": n, "title": f"t{n}"}) for n in range(1000)]
    for _ in range(2):
        store(rows, here)
    store([Message({"id": 5, "title": "new"})], here)
    with psycopg.connect(postgresql.dsn) as connection:
        assert connection.execute("SELECT count(*) FROM example").fetchone() == (1000,)
        assert connection.execute("SELECT title FROM example WHERE id = 5").fetchone() == ("new",)
    with pytest.raises(psycopg.Error):
        store([Message({"id": "no number", "title": ""})], here)
    with pytest.raises(Throttled):
        store(rows[:1], context(postgresql.dsn.replace(f"port={postgresql.port}", f"port={closed_port(postgresql)}")))


def test_a_server_that_is_killed_has_what_it_had(postgresql: PostgreSQL) -> None:
    with psycopg.connect(postgresql.dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
    port = postgresql.port
    postgresql.kill()
    assert not postgresql.running
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(postgresql.dsn).close()
    postgresql.start()
    with psycopg.connect(postgresql.dsn) as connection:
        assert (connection.execute("SELECT id FROM kept").fetchone(), postgresql.port) == ((1,), port)
