"""One table of the plugin `sqlite`: upserts by key, adds columns for new fields, and keeps a full-text index up to date."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable
from itertools import groupby
from operator import itemgetter
from typing import Any

from zpipe import Message
from zpipe_plugins.jsontext import json_text

_SHAPES = 256
"""For how many different sets of fields the statement is kept."""


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _folded(name: str) -> str:
    """The name as SQLite compares names: it ignores the case of ASCII letters, and of no others."""
    return name.translate(_FOLD)


_FOLD = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


# Values

_AS_THEY_ARE = frozenset({type(None), bool, float, str, bytes})


def _stored(value: Any) -> Any:
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return value
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 63 else str(value)
    return json_text(value)


class UnfitTableError(Exception):
    """The table exists, but does not fit the options."""


class SqliteTable:
    """One table and its search index. Any thread may call `upsert`."""

    def __init__(
        self, connection: sqlite3.Connection, table: str, key: str, columns: dict[str, str], fts: list[str]
    ) -> None:
        self._connection = connection
        self._name = table
        self._table = _quoted(table)
        self._key = key
        self._types = columns
        self._searched = fts
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._statements: dict[tuple[str, ...], str] = {}
        try:
            self._in_transaction(self._prepare)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def upsert(self, messages: list[Message]) -> None:
        """Stores all messages, or raises and stores none."""
        rows = [self._row(message) for message in messages]
        with self._lock:
            self._in_transaction(lambda: self._write(rows))

    def _in_transaction(self, work: Callable[[], None]) -> None:
        # IMMEDIATE waits for other writers here. A transaction that first reads and then writes would fail instead.
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            work()
            self._connection.execute("COMMIT")
        except BaseException:
            # New columns are rolled back, and a sibling may have changed the table.
            self._known.clear()
            self._statements.clear()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    # Rows

    def _row(self, message: Message) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        payload = message.payload
        if type(payload) is not dict:
            raise TypeError(
                f"message {message.id!r} is a {type(payload).__name__}: sqlite stores maps, a field a column"
            )
        if payload.get(self._key) is None:
            raise ValueError(f"message {message.id!r} has no field {self._key!r}, which is the key")
        return tuple(payload), tuple(map(_stored, payload.values()))

    def _write(self, rows: list[tuple[tuple[str, ...], tuple[Any, ...]]]) -> None:
        # Only messages beside each other are grouped. Of two messages with the same key, the later one must win.
        for fields, group in groupby(rows, key=itemgetter(0)):
            statement = self._statements.get(fields) or self._prepare_statement(fields)
            self._connection.executemany(statement, map(itemgetter(1), group))

    def _prepare_statement(self, fields: tuple[str, ...]) -> str:
        if len({_folded(name) for name in fields}) < len(fields):
            names = ", ".join(map(repr, fields))
            raise ValueError(f"two of the fields {names} differ only in case, and are one column in SQLite")
        self._add_columns(fields)
        if len(self._statements) >= _SHAPES:
            self._statements.clear()
        statement = self._statements[fields] = self._upsert_sql(fields)
        return statement

    def _upsert_sql(self, fields: tuple[str, ...]) -> str:
        names = ", ".join(map(_quoted, fields))
        changes = ", ".join(f"{_quoted(name)} = excluded.{_quoted(name)}" for name in fields if name != self._key)
        return (
            f"INSERT INTO {self._table} ({names}) VALUES ({', '.join('?' * len(fields))}) "
            f"ON CONFLICT ({_quoted(self._key)}) DO " + (f"UPDATE SET {changes}" if changes else "NOTHING")
        )

    def _add_columns(self, fields: Iterable[str]) -> None:
        if all(_folded(name) in self._known for name in fields):
            return
        self._known = {_folded(row[1]) for row in self._table_info()}  # a sibling may have added columns
        for name in fields:
            if _folded(name) not in self._known:
                kind = self._types.get(name, "")
                self._connection.execute(f"ALTER TABLE {self._table} ADD COLUMN {_quoted(name)} {kind}")
                self._known.add(_folded(name))

    def _master(self, column: str, name: str) -> Any:
        # lower() ignores case just as SQLite does in names.
        query = f"SELECT {column} FROM sqlite_master WHERE lower(name) = lower(?)"
        found = self._connection.execute(query, (name,)).fetchone()
        return found and found[0]

    def _table_info(self) -> list[Any]:
        return self._connection.execute(f"PRAGMA table_xinfo({self._table})").fetchall()

    # The table and its index

    def _prepare(self) -> None:
        existing = self._master("type", self._name)
        if existing is None:
            self._create()
        elif existing != "table":
            raise UnfitTableError(f"{self._name!r} is a {existing}, not a table")
        elif not self._has_key():
            raise UnfitTableError(
                f"table {self._name!r} is there already, and {self._key!r} is not its key: name its PRIMARY KEY or "
                "a UNIQUE column of it as `key`, or another table"
            )
        self._add_columns((self._key, *self._types, *self._searched))
        if self._searched:
            self._prepare_index()

    def _create(self) -> None:
        key = _quoted(self._key)
        kind = self._types.get(self._key, "").upper()
        if self._searched and kind != "INTEGER":
            # The index refers to rows by number. VACUUM changes these numbers, unless they are a column.
            columns = f"zpipe_rowid INTEGER PRIMARY KEY, {key} {kind} NOT NULL UNIQUE"
        else:
            columns = f"{key} {kind} NOT NULL PRIMARY KEY"
        self._connection.execute(f"CREATE TABLE {self._table} ({columns})")

    def _has_key(self) -> bool:
        wanted = [_folded(self._key)]
        if [_folded(row[1]) for row in self._table_info() if row[5]] == wanted:
            return True
        indexes = self._connection.execute(f"PRAGMA index_list({self._table})").fetchall()
        for _, index, is_unique, _, is_partial in indexes:
            columns = self._connection.execute(f"PRAGMA index_info({_quoted(index)})").fetchall()
            if is_unique and not is_partial and [_folded(column[2] or "") for column in columns] == wanted:
                return True
        return False

    def _row_number(self) -> str:
        """The column that has the number of the row, or SQLite's own name for it if no column has it."""
        keys = [row for row in self._table_info() if row[5]]
        is_column = len(keys) == 1 and keys[0][2].upper() == "INTEGER"
        return str(keys[0][1]) if is_column else "rowid"

    def _prepare_index(self) -> None:
        """Creates the full-text index. It takes its text from the table, and triggers keep it up to date, whoever writes."""
        name, number = f"{self._name}_fts", self._row_number()
        index, row, fields = _quoted(name), _quoted(number), ", ".join(map(_quoted, self._searched))
        content = f"content = {_text(self._name)}, content_rowid = {_text(number)}"
        create = f"CREATE VIRTUAL TABLE {index} USING fts5({fields}, {content})"
        existing = self._master("sql", name)
        if existing is not None:
            if existing != create:
                raise UnfitTableError(f"table {name!r} was made for other `fts` fields: drop it to have it built again")
            return
        old = f"VALUES ('delete', old.{row}, {', '.join(f'old.{_quoted(f)}' for f in self._searched)})"
        new = f"VALUES (new.{row}, {', '.join(f'new.{_quoted(f)}' for f in self._searched)})"
        remove = f"INSERT INTO {index} ({index}, rowid, {fields}) {old};"
        add = f"INSERT INTO {index} (rowid, {fields}) {new};"
        # A redelivered message changes nothing. To index it again would be most of the work of storing it.
        differs = " OR ".join(f"old.{c} IS NOT new.{c}" for c in (row, *map(_quoted, self._searched)))
        self._connection.execute(create)
        for event, body in (("INSERT", add), ("DELETE", remove), (f"UPDATE/{differs}", remove + add)):
            verb, _, condition = event.partition("/")
            trigger = _quoted(f"{name}_{verb.lower()}")
            when = f"WHEN {condition}" if condition else ""
            self._connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
            self._connection.execute(f"CREATE TRIGGER {trigger} AFTER {verb} ON {self._table} {when} BEGIN {body} END")
        self._connection.execute(f"INSERT INTO {index} ({index}) VALUES ('rebuild')")
