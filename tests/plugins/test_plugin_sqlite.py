from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from zpipe import Message, Throttled
from zpipe.errors import OperatorError
from zpipe_plugins.databases.sqlite import Options, Sqlite


@pytest.fixture
def db(tmp_path: Path) -> Any:
    def query(sql: str, *arguments: Any) -> list[Any]:
        with closing(sqlite3.connect(tmp_path / "t.db")) as connection, connection:
            return connection.execute(sql, arguments).fetchall()

    return query


def options(**more: Any) -> Options:
    return Options(**({"path": "t.db", "table": "docs", "key": "id"} | more))


def store(context: Any, *payloads: Any) -> Any:
    return context.scratch.process_batch([Message(p, id=f"m{n}") for n, p in enumerate(payloads)], context)


def test_upsert_adds_columns_as_they_come(make_context: Any, opened: Any, db: Any) -> None:
    with opened(Sqlite, make_context(options())) as context:
        assert store(context, {"id": 1, "a": "x"}, {"id": 2, "b": 1.5}, {"id": 1, "a": "y"}) is None
        assert context.scratch.process(Message({"id": 3, 'odd "name"; --': b"\0"}), context) is None
        store(context, {"id": 2}, {"b": 2.5, "id": 1})
    assert db("SELECT * FROM docs ORDER BY id") == [(1, "y", 2.5, None), (2, None, 1.5, None), (3, None, None, b"\0")]
    with opened(Sqlite, make_context(options())) as context:
        store(context, {"id": 1, "c": True, "A": "z"})
    assert db("SELECT id, a, b, c FROM docs WHERE id = 1") == [(1, "z", 2.5, 1)]


def test_full_database_is_waited_for(make_context: Any, opened: Any, db: Any) -> None:
    with opened(Sqlite, make_context(options())) as context:
        store(context, {"id": 1})
        connection = context.scratch._table._connection
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 4}")
        with pytest.raises(Throttled, match=r"t\.db: database or disk is full: retry after 1 s"):
            store(context, {"id": 2, "text": "x" * 100_000})
        connection.execute("PRAGMA max_page_count = 1000")
        store(context, {"id": 2, "text": "x" * 100_000})
    assert db("SELECT id FROM docs ORDER BY id") == [(1,), (2,)]


def test_values(make_context: Any, opened: Any, db: Any) -> None:
    values = {
        "id": "k",
        "list": [1, {"é": b"\xff"}],
        "map": {},
        "big": 1 << 64,
        "int": -(1 << 63),
        "nan": [float("nan")],
    }
    with opened(Sqlite, make_context(options())) as context:
        store(context, values)
    assert db("SELECT list, map, big, int, nan FROM docs") == [
        ('[1,{"é":"/w=="}]', "{}", "18446744073709551616", -(1 << 63), "[null]")
    ]


def test_passes_on_what_it_stored(make_context: Any, opened: Any) -> None:
    with opened(Sqlite, make_context(options(), last=False)) as context:
        assert store(context, {"id": 1}) == [{"id": 1}]
        assert context.scratch.process(Message({"id": 1}), context) == {"id": 1}


def test_a_bad_message_stores_nothing_of_its_batch(make_context: Any, opened: Any, db: Any) -> None:
    with opened(Sqlite, make_context(options())) as context:
        for bad, error, text in (
            ({"a": 1}, ValueError, "message 'm1' has no field 'id', which is the key"),
            ({"id": None}, ValueError, "message 'm1' has no field 'id'"),
            ("text", TypeError, "message 'm1' is a str: sqlite stores maps"),
            ({"id": 2, "a": 1, "A": 2}, ValueError, "differ only in case"),
            ({"id": 2, "a\0b": 1}, (ValueError, sqlite3.Error), "null character|unrecognized token"),
        ):
            with pytest.raises(error, match=text):
                store(context, {"id": 1, "new": 1}, bad)
        assert db("SELECT * FROM docs") == []
        store(context, {"id": 1, "new": 1})
    assert db("SELECT id, new FROM docs") == [(1, 1)]


def test_declared_types(make_context: Any, opened: Any, db: Any) -> None:
    declared = options(columns={"id": "integer", "price": "REAL", "zip": "TEXT"})
    with opened(Sqlite, make_context(declared)) as context:
        store(context, {"id": "7", "price": 3, "zip": 1234})
    assert db("SELECT rowid, id, price, typeof(price), zip FROM docs") == [(7, 7, 3.0, "real", "1234")]


SEARCH = "SELECT d.id FROM docs_fts JOIN docs AS d ON d.rowid = docs_fts.rowid WHERE docs_fts MATCH ? ORDER BY d.id"


@pytest.mark.parametrize("kind", ["INTEGER", "TEXT", None])
def test_full_text_index_is_kept_in_step(make_context: Any, opened: Any, db: Any, kind: str | None) -> None:
    chosen = options(fts=["title", "body"], columns={"id": kind} if kind else {})
    with opened(Sqlite, make_context(chosen)) as context:
        store(context, *({"id": n, "title": f"word{n} common", "n": n} for n in range(5)))
        store(
            context,
            {"id": 1, "title": "changed common"},
            {"id": 1, "title": "changed common"},
            {"id": 9, "body": "odd"},
        )
    assert len(db(SEARCH, "common")) == 5
    assert db(SEARCH, "word1") == []
    assert db(SEARCH, "odd") == [("9",)] if kind == "TEXT" else [(9,)]
    db("DELETE FROM docs WHERE id IN (0, '0')")
    if kind != "INTEGER":
        assert db("SELECT count(zpipe_rowid) FROM docs") == [(5,)]
    db("VACUUM")
    assert [int(row[0]) for row in db(SEARCH, "common")] == [1, 2, 3, 4]
    db("INSERT INTO docs_fts (docs_fts, rank) VALUES ('integrity-check', 1)")
    with opened(Sqlite, make_context(chosen)):
        pass


def test_full_text_index_for_a_table_that_is_there(make_context: Any, opened: Any, db: Any) -> None:
    with opened(Sqlite, make_context(options())) as context:
        store(context, {"id": 1, "title": "early"})
    with opened(Sqlite, make_context(options(fts=["title"]))) as context:
        store(context, {"id": 2, "title": "late"})
    assert db(SEARCH, "early OR late") == [(1,), (2,)]
    with pytest.raises(OperatorError, match="'docs_fts' was made for other `fts` fields: drop it"):
        Sqlite().open(make_context(options(fts=["title", "body"])))
    db("DROP TABLE docs_fts")
    with opened(Sqlite, make_context(options(fts=["title", "body"]))) as context:
        store(context, {"id": 1, "body": "inside"})
    assert db(SEARCH, "inside AND early") == [(1,)]


@pytest.mark.parametrize(
    ("made", "text"),
    [
        ("CREATE TABLE docs (id, other PRIMARY KEY)", "'id' is not its key"),
        ("CREATE TABLE docs (id, other, PRIMARY KEY (id, other))", "'id' is not its key"),
        ("CREATE TABLE docs (other)", "'id' is not its key"),
        ("CREATE VIEW docs AS SELECT 1 AS id", "'docs' is a view, not a table"),
        ("CREATE TABLE docs (id PRIMARY KEY) WITHOUT ROWID", "rowid"),
    ],
)
def test_a_table_that_does_not_fit(make_context: Any, db: Any, made: str, text: str) -> None:
    db(made)
    with pytest.raises(OperatorError, match=text) as caught:
        Sqlite().open(make_context(options(fts=["title"])))
    assert "t.db" in str(caught.value)


def test_a_unique_column_is_a_key(make_context: Any, opened: Any, db: Any) -> None:
    db("CREATE TABLE Docs (n INTEGER PRIMARY KEY, ID TEXT UNIQUE)")
    with opened(Sqlite, make_context(options())) as context:
        store(context, {"id": "a", "x": 1}, {"id": "a", "x": 2})
    assert db("SELECT ID, x FROM docs") == [("a", 2)]


def test_a_file_that_is_no_database(make_context: Any, tmp_path: Path) -> None:
    (tmp_path / "t.db").write_text("some text that is long enough to be looked at" * 100)
    with pytest.raises(OperatorError, match=r"t\.db: file is not a database"):
        Sqlite().open(make_context(options()))
    with pytest.raises(OperatorError, match="cannot make its folder"):
        Sqlite().open(make_context(options(path="t.db/x/y.db")))
    with pytest.raises(OperatorError, match="unable to open"):
        Sqlite().open(make_context(options(path=".")))


def test_wrong_options() -> None:
    for name in ("path", "table", "key"):
        with pytest.raises(ValueError, match=f"{name} is empty"):
            options(**{name: ""})
    with pytest.raises(ValueError, match=r"columns\.a is 'TEXT; --': allowed are INTEGER, REAL"):
        options(columns={"a": "TEXT; --"})


def test_many_threads_and_instances(make_context: Any, opened: Any, db: Any) -> None:
    """Each with columns of its own, so that they also change the table under one another."""
    errors: list[BaseException] = []

    def work(context: Any, worker: int) -> None:
        try:
            for n in range(20):
                store(context, {"id": f"{worker}-{n}", f"column{n % 4}": n}, {"id": "shared", f"own{worker}": n})
        except BaseException as error:
            errors.append(error)

    with opened(Sqlite, make_context(options())) as one, opened(Sqlite, make_context(options())) as two:
        threads = [threading.Thread(target=work, args=((one, two)[n % 2], n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert errors == []
    assert db("SELECT count(*) FROM docs") == [(81,)]
    assert db("SELECT own0, own1, own2, own3 FROM docs WHERE id = 'shared'") == [(19, 19, 19, 19)]


BATCH, BATCHES = 40, 60
WRITER = f"""
import signal
from zpipe_plugins.databases.sqlite import Options, Sqlite
calls, seen = int(sys.argv[2]), 0
def stand_still(statement):
    # After so many calls it stands still amid a transaction, to be killed there.
    global seen
    seen += statement.startswith("INSERT INTO \\"docs\\"")
    if calls == 0 and seen > {BATCH} // 2:
        print("amid a transaction", flush=True)
        signal.pause()
sqlite, c = Sqlite(), context(Options("t.db", "docs", "id", fts=["text"]), sys.argv[1])
sqlite.open(c)
sqlite._table._connection.set_trace_callback(stand_still)
for b in range({BATCHES}):
    rows = [{{"id": b * {BATCH} + n, "text": f"word{{n}} " * 50, f"column{{b % 7}}": n}} for n in range({BATCH})]
    seen = 0
    sqlite.process_batch([Message(row) for row in rows], c)
    calls -= 1
    print(b, flush=True)
sqlite.close(c)
"""


@pytest.mark.parametrize("amid_a_transaction", [False, True])
def test_kill_9_leaves_whole_batches(start_writer: Any, tmp_path: Path, db: Any, amid_a_transaction: bool) -> None:
    """Two write the same rows at the same time; a start after a kill does everything over."""
    for calls in (1, 2, 3, 5, 10):
        first = start_writer(WRITER, tmp_path, calls if amid_a_transaction else -1)
        first.wait_for_calls(calls + amid_a_transaction)
        second = start_writer(WRITER, tmp_path, -1)
        returned = calls + first.kill()
        (count,) = db("SELECT count(*) FROM docs")[0]
        assert count % BATCH == 0
        assert count >= returned * BATCH
        second.wait_for_calls(1)
        second.kill()
        assert db("PRAGMA integrity_check") == [("ok",)]
        db("INSERT INTO docs_fts (docs_fts, rank) VALUES ('integrity-check', 1)")
    start_writer(WRITER, tmp_path, -1).finish()
    assert db("SELECT count(*), count(DISTINCT id), max(id) FROM docs") == [
        (BATCH * BATCHES, BATCH * BATCHES, BATCH * BATCHES - 1)
    ]
    assert db("SELECT count(*) FROM docs_fts WHERE docs_fts MATCH 'word7'") == [(BATCHES,)]
