"""`sqlite`: stores each payload as a row, by its key. A message that is delivered again overwrites its own row.

The row with the same key is overwritten, and fields that a message lacks keep their values. A field that is new adds a
column. Lists and maps are stored as JSON text, bytes as BLOB, integers beyond 64 bits as text, NaN as NULL. A batch is
one transaction, on the disk when the call returns; without `batch` each message is, which is slow. Several instances may
write one file. In the middle of a pipeline it passes on what it stored.

Search with `SELECT d.* FROM docs_fts JOIN docs AS d ON d.rowid = docs_fts.rowid WHERE docs_fts MATCH ?`. For its sake a
new table with `fts` has a column `zpipe_rowid`, unless the key is `INTEGER`. With a table of your own that has no
`INTEGER PRIMARY KEY`, rebuild the index after a `VACUUM`: `INSERT INTO docs_fts(docs_fts) VALUES ('rebuild')`.

| fault | what follows |
|---|---|
| the disk is full, the database is locked or cannot be written | the stage waits |
| a payload that is no map, or lacks its key | tries again, then a dead letter |
| the table does not fit: another key, another index | the stage does not start, and says why |

**Redelivery.** Stored once, by its key.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from zpipe import BatchMap, Context, Message, Throttled, Traits, override
from zpipe.errors import OperatorError
from zpipe_plugins.databases.sqlite_table import SqliteTable, UnfitTableError

_BUSY_S = 30.0
_AGAIN_S = 1.0
_NOT_THE_MESSAGES_FAULT = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
}
"""Errors that the disk or another process has caused. The message can be stored later, so it keeps its attempts."""
_TYPES = ("INTEGER", "REAL", "TEXT", "BLOB", "NUMERIC")


@dataclass
class Options:
    path: Annotated[str, "the database, relative to the config file"]
    table: Annotated[str, "is created if it does not exist"]
    key: Annotated[str, "the field that identifies a row"]
    columns: Annotated[dict[str, str], "types of fields whose type matters"] = field(default_factory=dict)
    fts: Annotated[list[str], "fields of the full-text index `<table>_fts`"] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("path", "table", "key"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: allowed is any name")
        for name, kind in self.columns.items():
            # It becomes part of a statement, so only known types are allowed.
            if str(kind).upper() not in _TYPES:
                raise ValueError(f"columns.{name} is {kind!r}: allowed are {', '.join(_TYPES)}")


class Sqlite(BatchMap[Options]):
    """Not a Sink, since a stage may read from it: it passes on what it has stored."""

    @override
    def traits(self, options: Options, config_dir: Path) -> Traits:
        return Traits(writes=(_path(options, config_dir),))

    @override
    def open(self, context: Context[Options]) -> None:
        options = context.options
        path = _path(options, context.config_dir)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._table = SqliteTable(_connect(path), options.table, options.key, options.columns, options.fts)
        except OSError as error:
            raise OperatorError(f"{path}: cannot make its folder: {error.strerror}") from error
        except sqlite3.Error as error:
            raise OperatorError(f"{path}: {error}") from error
        except UnfitTableError as error:
            raise OperatorError(f"{path}: {error}") from None

    @override
    def close(self, context: Context[Options]) -> None:
        if hasattr(self, "_table"):  # one that is told to leave while it starts may not be open
            self._table.close()

    @override
    def process(self, message: Message, context: Context[Options]) -> Any:
        self._store([message], context)
        return None if context.last else message.payload

    @override
    def process_batch(self, messages: list[Message], context: Context[Options]) -> list[Any] | None:
        self._store(messages, context)
        return None if context.last else [message.payload for message in messages]

    def _store(self, messages: list[Message], context: Context[Options]) -> None:
        try:
            self._table.upsert(messages)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _NOT_THE_MESSAGES_FAULT:
                raise
            raise Throttled(_AGAIN_S, f"{context.options.path}: {error}") from error


def _path(options: Options, config_dir: Path) -> Path:
    return config_dir / Path(options.path).expanduser()


def _connect(path: Path) -> sqlite3.Connection:
    # All worker threads share one connection, under a lock of our own. SQLite lets only one write at a time anyway.
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _use_wal(connection)
        # NORMAL is enough if a process is killed. But after a loss of power, acknowledged messages could be gone.
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Sets the WAL mode, in which readers never wait. Setting it ignores the busy timeout, so this waits for siblings that start
    at the same time.

    Where WAL is not possible (some network file systems), SQLite keeps another mode, which is as safe.
    """
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
