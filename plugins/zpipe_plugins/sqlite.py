"""`sqlite`: stores each payload as a row, by key: a message that is delivered again overwrites its own row.

The columns are the payload's fields; a field that no message had before adds a column. A call returns once its
transaction is committed to the disk.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zpipe import Context, Message, Throttled, Traits, hookimpl
from zpipe.errors import OperatorError
from zpipe_plugins.sqlite_table import Table, UnfitTableError

_BUSY_S = 30.0
_AGAIN_S = 1.0
_NOT_OF_THE_MESSAGES = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
}
"""What the disk, or another process, is to blame for: the same message is stored when that is over, so it keeps its attempts."""
_TYPES = ("INTEGER", "REAL", "TEXT", "BLOB", "NUMERIC")


@dataclass
class Options:
    """path: the database, relative to the config file;  table: made if it is not there;  key: the field that says
    which row it is;  columns: types of fields, where they matter;  fts: fields to search in, as table `<table>_fts`."""

    path: str
    table: str
    key: str
    columns: dict[str, str] = field(default_factory=dict)
    fts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("path", "table", "key"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: allowed is any name")
        for name, kind in self.columns.items():
            # It becomes a part of a statement, so only what is known may stand here.
            if str(kind).upper() not in _TYPES:
                raise ValueError(f"columns.{name} is {kind!r}: allowed are {', '.join(_TYPES)}")


@hookimpl
def zpipe_options() -> type:
    return Options


@hookimpl
def zpipe_traits(options: Options, config_dir: Path) -> Traits:
    return Traits(writes=(_path(options, config_dir),))


@hookimpl
def zpipe_open(context: Context) -> None:
    options: Options = context.options
    path = _path(options, context.config_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        context.scratch = Table(_connect(path), options.table, options.key, options.columns, options.fts)
    except OSError as error:
        raise OperatorError(f"{path}: cannot make its folder: {error.strerror}") from error
    except sqlite3.Error as error:
        raise OperatorError(f"{path}: {error}") from error
    except UnfitTableError as error:
        raise OperatorError(f"{path}: {error}") from None


@hookimpl
def zpipe_close(context: Context) -> None:
    if isinstance(context.scratch, Table):
        context.scratch.close()


@hookimpl
def zpipe_process(message: Message, context: Context) -> Any:
    _store([message], context)
    return None if context.last else message.payload


@hookimpl
def zpipe_process_batch(messages: list[Message], context: Context) -> list[Any] | None:
    _store(messages, context)
    return None if context.last else [message.payload for message in messages]


def _path(options: Options, config_dir: Path) -> Path:
    return config_dir / Path(options.path).expanduser()


def _store(messages: list[Message], context: Context) -> None:
    try:
        context.scratch.upsert(messages)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _NOT_OF_THE_MESSAGES:
            raise
        raise Throttled(_AGAIN_S, f"{context.options.path}: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    # One connection for all worker threads, under a lock of our own: SQLite has one writer at a time in any case.
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _use_wal(connection)
        # NORMAL would do for a killed process, but after a power loss acknowledged messages could be gone.
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Readers then never wait. The change itself does not heed the busy timeout when siblings start at the same time.

    Where it cannot be had (some network file systems) SQLite keeps another mode, which is as safe.
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
