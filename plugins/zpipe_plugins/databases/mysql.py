"""`mysql`: reads a table of MySQL or MariaDB in the order of a cursor, or stores each payload as a row, by its key.

Without an input it is a source. It reads the rows after its position page by page, and with `poll` goes on when new ones
come. A cursor has to grow in the order in which rows are committed: a row that is committed later with a smaller one is
not read. Values that are no plain ones (times, decimals) are text.

With an input it is a sink. A batch is one transaction, so give the stage a `batch`. A row whose key is there is
overwritten (`ON DUPLICATE KEY UPDATE`), with the fields that the payload has; lists and maps are stored as JSON.

```toml
[stages.store]
input = "read"
plugin = "mysql"
batch = { messages = 1000, timeout = "200ms" }
options = { host = "db.example", user = "shop", password = "${SHOP_PASSWORD}", database = "shop", table = "orders", key = ["id"] }
```

| fault | what follows |
|---|---|
| no connection, too many connections, a full disk, a deadlock, a read-only server | the stage waits, and connects again |
| a value that the column does not take, a constraint | a dead letter with the server's words; the rest is stored |
| a payload that is no map, lacks the key, or has a field without a column | a dead letter |
| a wrong password, no such database, table or column, no permission | the stage ends |

**Resume.** A position is the cursor of the last row: a start goes on after it.

**Redelivery.** A row is stored once, by its key. Without a `key` it is added again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

from zpipe import Context, Message, Secret, Sink, Source, override
from zpipe.errors import OperatorError
from zpipe_plugins.databases.cursor_source import CursorOptions, Page, Position, read_pages
from zpipe_plugins.databases.table_sink import Row, TableOptions, groups_of, in_order_of_key, store_batch
from zpipe_plugins.reconnect import Reconnect
from zpipe_plugins.service_plugin import ServiceOptions, ServicePlugin, address

if TYPE_CHECKING:
    import pymysql

CONNECT_S = 10
_UNAVAILABLE = {
    1021,  # disk full
    1040,  # too many connections
    1053,  # shutdown in progress
    1114,  # the table is full
    1203,  # too many connections of this user
    1205,  # lock wait timeout
    1206,  # locks take too much room
    1213,  # deadlock
    1290,  # the server runs with --read-only
    1792,  # read-only transaction
    1836,  # read-only mode
    1927,  # connection was killed
    2002,
    2003,  # cannot connect
    2006,
    2013,  # the server has gone away
    2055,
    4031,  # disconnected for inactivity
}
"""Numbers of errors that pass without anyone's doing. https://mariadb.com/kb/en/mariadb-error-codes/"""
_NEEDS_ESCAPE = re.compile(r"""[\0\n\r\x1a'"\\]""").search
"""Finds what may not stand between quotes as it is, whatever the server's `sql_mode`."""
_OPERATORS = {1044, 1045, 1049, 1054, 1064, 1142, 1143, 1146, 1698}
"""Numbers of errors that only a person can put right: no access, no such database, column, table; a wrong statement."""


@dataclass(kw_only=True)
class ServerOptions(ServiceOptions):
    host: Annotated[str, "of the server"] = "localhost"
    port: Annotated[int, "of the server"] = 3306
    user: Annotated[str, "who reads or writes"]
    password: Annotated[Secret | None, "of the user"] = None
    database: Annotated[str, "which of the server's databases"]

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}: allowed are 1 to 65535")
        super().__post_init__()

    @property
    @override
    def services(self) -> tuple[str, ...]:
        return (address("mysql", self.host, self.port),)


@dataclass(kw_only=True)
class SourceOptions(ServerOptions, CursorOptions): ...


@dataclass(kw_only=True)
class SinkOptions(ServerOptions, TableOptions): ...


class _Unavailable(Exception):
    """The server, or the way to it."""


class _RefusedRow(Exception):
    """The server refuses what is in a batch."""


class MysqlSource(ServicePlugin[SourceOptions], Source[SourceOptions, Position]):
    extra, module = "mysql", "pymysql"
    _connection: Reconnect[pymysql.Connection[Any]]

    @override
    def open(self, context: Context[SourceOptions]) -> None:
        self._connection = Reconnect(partial(_connect, context.options, True), _close, (_Unavailable,))

    @override
    def close(self, context: Context[SourceOptions]) -> None:
        self._connection.close()

    @override
    def source(self, context: Context[SourceOptions, Position]) -> Iterator[tuple[Position, dict[str, Any]]]:
        options = context.options
        yield from read_pages(context, options, partial(self._page_after, options), context.stopping.wait)

    def _page_after(self, options: SourceOptions, after: list[Any] | None) -> Page:
        import pymysql

        with self._connection.use() as connection, connection.cursor() as cursor:
            try:
                cursor.execute(_page_query(options, cursor.mogrify("%s", (after,)) if after else ""))
                return [column[0] for column in cursor.description], cursor.fetchall()
            except pymysql.Error as error:
                raise _judged(error, OperatorError) from error


class MysqlSink(ServicePlugin[SinkOptions], Sink[SinkOptions]):
    extra, module = "mysql", "pymysql"
    _target: Reconnect[_Target]

    @override
    def open(self, context: Context[SinkOptions]) -> None:
        self._target = Reconnect(
            lambda: _Target(context.options), lambda target: _close(target.connection), (_Unavailable,)
        )

    @override
    def close(self, context: Context[SinkOptions]) -> None:
        self._target.close()

    @override
    def process(self, message: Message, context: Context[SinkOptions]) -> Any:
        return self.process_batch([message], context)[0]

    @override
    def process_batch(self, messages: list[Message], context: Context[SinkOptions]) -> Any:
        with self._target.use() as target:
            return store_batch(messages, context.options, target.columns, target.store, (_RefusedRow,))


class _Target:
    """A connection, and the table that is written by it. `columns`: their names."""

    def __init__(self, options: SinkOptions) -> None:
        import pymysql

        self._options = options
        self.connection = _connect(options, False)
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(f"SELECT * FROM {_quoted_table(options.table)} LIMIT 0")
                self.columns = {column[0] for column in cursor.description}
        except pymysql.Error as error:
            _close(self.connection)
            raise _judged(error, OperatorError) from error

    def store(self, rows: list[Row]) -> None:
        """In one transaction. Raises _RefusedRow, or what stands for whoever else is to blame."""
        import pymysql

        try:
            with self.connection.cursor() as cursor:
                for names, group in groups_of(rows, self._options.key):
                    begin, end = self._upsert(names)
                    for values in _values_of(in_order_of_key(group, self._options.key), cursor):
                        cursor.execute(f"{begin}{values}{end}")
            self.connection.commit()
        except Exception as error:  # whatever it is, the next batch must not commit a half of this one
            known = isinstance(error, (pymysql.Error, TypeError, ValueError))
            judged = _judged(error, _RefusedRow) if known else error
            if not isinstance(judged, _Unavailable):
                self._roll_back()
            raise judged from error

    def _roll_back(self) -> None:
        import pymysql

        try:
            self.connection.rollback()
        except pymysql.Error as error:
            raise _Unavailable(f"cannot roll a batch back: {error}") from error

    def _upsert(self, names: tuple[str, ...]) -> tuple[str, str]:
        """A statement for many rows: what stands before their values, and after them."""
        columns = ", ".join(map(_quoted, names))
        insert = f"INSERT INTO {_quoted_table(self._options.table)} ({columns}) VALUES "
        if not (key := self._options.key):
            return insert, ""
        others = [_quoted(name) for name in names if name not in key] or [_quoted(key[0])]
        return insert, f" ON DUPLICATE KEY UPDATE {', '.join(f'{name} = VALUES({name})' for name in others)}"


def _values_of(rows: list[Row], cursor: pymysql.cursors.Cursor) -> Iterator[str]:
    """The values of rows that have the same fields, as text for a statement: all of them, or as many as a statement should have.

    `executemany` looks at each value by itself, which takes 2.4 µs for a row of three; a column at a time takes 0.5 (measured).
    """
    columns = [_literals(list(values), cursor) for values in zip(*(row.values() for row in rows), strict=True)]
    texts: list[str] = []
    size = 0
    for text in map(", ".join, zip(*columns, strict=True)) if columns else repeat("", len(rows)):
        size += len(text) + 4
        if texts and size > cursor.max_stmt_length:
            yield f"({'), ('.join(texts)})"
            texts, size = [], len(text) + 4
        texts.append(text)
    yield f"({'), ('.join(texts)})"


def _literals(values: list[Any], cursor: pymysql.cursors.Cursor) -> list[str]:
    """Values of a column, as a statement has them. What may need more than quotes is the library's."""

    def by_library(value: Any) -> str:
        return cursor.mogrify("%s", (_stored(value),))

    kinds = set(map(type, values))
    is_nullable = type(None) in kinds
    present = [value for value in values if value is not None] if is_nullable else values
    make: Callable[[Any], str] = by_library
    if kinds <= {int, type(None)}:
        make = str
    elif kinds <= {float, type(None)} and all(map(isfinite, present)):
        make = _double
    elif kinds <= {str, type(None)} and _NEEDS_ESCAPE("".join(present)) is None:
        make = "'{}'".format
    return ["NULL" if value is None else make(value) for value in values] if is_nullable else list(map(make, values))


def _double(value: float) -> str:
    """With an exponent: without one it would be a decimal."""
    text = repr(value)
    return text if "e" in text else f"{text}e0"


def _stored(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _connect(options: ServerOptions, autocommit: bool) -> pymysql.Connection[Any]:
    import pymysql

    try:
        return pymysql.connect(
            host=options.host,
            port=options.port,
            user=options.user,
            password=options.password.reveal() if options.password is not None else "",
            database=options.database,
            charset="utf8mb4",
            autocommit=autocommit,
            connect_timeout=CONNECT_S,
        )
    except pymysql.Error as error:
        raise _judged(error, OperatorError) from error


def _close(connection: pymysql.Connection[Any]) -> None:
    connection.close()


def _judged(error: Exception, otherwise: type[Exception]) -> Exception:
    """What to raise for an error of the client, whose arguments are its number and the server's words."""
    import pymysql

    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    words = " ".join(str(one) for one in error.args) or type(error).__name__
    lost = isinstance(error, pymysql.InterfaceError) or number in _UNAVAILABLE
    if lost:
        return _Unavailable(words)
    return OperatorError(words) if number in _OPERATORS else otherwise(words)


def _page_query(options: SourceOptions, after: str) -> str:
    """`after`: the values of the cursor as a statement has them; "": from the beginning."""
    cursor = ", ".join(map(_quoted, options.cursor))
    conditions = [f"({options.where})"] if options.where else []
    if after:
        conditions.append(f"({cursor}) > {after}")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    columns = ", ".join(map(_quoted, options.selected)) or "*"
    return f"SELECT {columns} FROM {_quoted_table(options.table)}{where} ORDER BY {cursor} LIMIT {options.page}"


def _quoted_table(table: str) -> str:
    return ".".join(map(_quoted, table.split(".")))


def _quoted(name: str) -> str:
    """A name in a statement."""
    return f"`{name.replace('`', '``')}`"
