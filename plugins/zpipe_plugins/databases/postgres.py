"""`postgres`: reads a table of PostgreSQL in the order of a cursor, or stores each payload as a row, by its key.

Without an input it is a source. It reads the rows after its position page by page, and with `poll` or `listen` it goes on
when new ones come: `listen` names a channel, on which a trigger says `NOTIFY` when there are, so that they are read at
once. A cursor has to grow in the order in which rows are committed: a row that is committed later with a smaller one
is not read. Two columns such as `["changed_at", "id"]` read what has changed. Values that are no plain ones (times,
numerics, UUIDs) are text.

With an input it is a sink. A batch goes by `COPY` into a temporary table and from there into the table, in one
transaction, so give the stage a `batch`. A row whose key is there is overwritten, with the fields that the payload has.
With `workers = { count = 2 }` two batches are stored at once, each by a connection of its own, which is up to twice as quick.
Two messages about one row may then be stored in either order. Rows are written in the order of their key, so that two batches
with the same rows are no deadlock, as long as all rows of a batch have the same fields.

```toml
[stages.read]
plugin = "postgres"
options = { dsn = "host=db.example user=shop", password = "${SHOP_PASSWORD}", table = "orders", cursor = ["id"], poll = "1s" }

[stages.store]
input = "read"
plugin = "postgres"
batch = { messages = 1000, timeout = "200ms" }
options = { dsn = "host=db.example user=lake", password = "${LAKE_PASSWORD}", table = "orders", key = ["id"] }
```

| fault | what follows |
|---|---|
| no connection, too many clients, a full disk, a deadlock, a read-only server | the stage waits, and connects again |
| a value that the column does not take, a constraint | a dead letter with the server's words; the rest is stored |
| a payload that is no map, lacks the key, or has a field without a column | a dead letter |
| a wrong password, no such database, table or column, no permission | the stage ends |

**Resume.** A position is the cursor of the last row: a start goes on after it.

**Redelivery.** A row is stored once, by its key. Without a `key` it is added again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from zpipe import Context, Duration, Message, Secret, Sink, Source, Throttled, override
from zpipe.errors import OperatorError
from zpipe_plugins.databases.cursor_source import CursorOptions, Page, Position, read_pages
from zpipe_plugins.databases.table_sink import Row, TableOptions, groups_of, store_batch
from zpipe_plugins.reconnect import Reconnect, Reconnects, words_of
from zpipe_plugins.service_plugin import ServiceOptions, ServicePlugin, address

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

CONNECT_S = 10
LISTEN_S = 0.5
"""A source that listens looks this often whether it is to stop."""
REFUSED_S = 1.0
_OPERATORS = {
    "3D000",  # no such database
    "3F000",  # no such schema
    "42501",  # insufficient privilege
    "42601",  # syntax error: in `where`
    "42703",  # no such column
    "42P01",  # no such table
    "42P10",  # no unique index for the key
}
"""Errors that only a person can put right, by their SQLSTATE."""
_DENIED = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "not permitted to",
)
"""Parts of what a server says when it refuses a client for good. libpq gives no SQLSTATE for that."""


@dataclass(kw_only=True)
class ServerOptions(ServiceOptions):
    dsn: Annotated[str, "where the database is: `host=… dbname=… user=…`, or a URL"]
    password: Annotated[Secret | None, "of the user"] = None

    @property
    @override
    def services(self) -> tuple[str, ...]:
        """Of several hosts each; none of a Unix socket."""
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        try:
            found = conninfo_to_dict(self.dsn)
        except ProgrammingError:
            return ()
        hosts = str(found.get("hostaddr") or found.get("host") or "").split(",")
        ports = str(found.get("port") or "").split(",")
        each = zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=False)
        return tuple(address("postgresql", host, port) for host, port in each if host[:1] not in ("", "/", "@"))

    @override
    def problems(self) -> Iterator[tuple[str, str]]:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        try:
            conninfo_to_dict(self.dsn)
        except ProgrammingError as error:
            yield "dsn", f"it is no connection string: {words_of(error)}"


@dataclass(kw_only=True)
class SourceOptions(ServerOptions, CursorOptions):
    listen: Annotated[str, "a channel; what is notified on it has the source look for new rows"] = ""
    poll: Annotated[Duration | None, "look for new rows this often; left out: 30 s with `listen`, else end"] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.listen and self.poll is None:
            self.poll = 30.0


@dataclass(kw_only=True)
class SinkOptions(ServerOptions, TableOptions): ...


class PostgresSource(ServicePlugin[SourceOptions], Source[SourceOptions, Position]):
    extra, module = "postgres", "psycopg"
    _connection: Reconnect[psycopg.Connection]

    @override
    def open(self, context: Context[SourceOptions]) -> None:
        from psycopg import InterfaceError, OperationalError

        def connected() -> psycopg.Connection:
            connection = _connect(context.options.dsn, context.options.password)
            if context.options.listen:
                from psycopg import sql

                connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(context.options.listen)))
            return connection

        faults = (OperationalError, InterfaceError)
        self._connection = Reconnect(connected, lambda connection: connection.close(), faults)

    @override
    def close(self, context: Context[SourceOptions]) -> None:
        self._connection.close()

    @override
    def source(self, context: Context[SourceOptions, Position]) -> Iterator[tuple[Position, dict[str, Any]]]:
        page_after = partial(self._page_after, context.options)
        yield from read_pages(context, context.options, page_after, partial(self._wait, context))

    def _page_after(self, options: SourceOptions, after: list[Any] | None) -> Page:
        import psycopg

        try:
            with self._connection.use() as connection, connection.cursor() as cursor:
                cursor.execute(_page_query(options, after is not None), after or [])
                assert cursor.description is not None
                return [column.name for column in cursor.description], cursor.fetchall()
        except psycopg.Error as error:
            raise OperatorError(f"{options.table}: {words_of(error)}") from error

    def _wait(self, context: Context[SourceOptions, Position], seconds: float) -> None:
        if not context.options.listen:
            context.stopping.wait(seconds)
            return
        until = time.monotonic() + seconds
        with self._connection.use() as connection:
            while not context.stopping.is_set() and (left := until - time.monotonic()) > 0:
                if list(connection.notifies(timeout=min(left, LISTEN_S), stop_after=1)):
                    return


class PostgresSink(ServicePlugin[SinkOptions], Sink[SinkOptions]):
    extra, module = "postgres", "psycopg"
    _targets: Reconnects[_Target]

    @override
    def open(self, context: Context[SinkOptions]) -> None:
        from psycopg import InterfaceError, OperationalError

        options, faults = context.options, (OperationalError, InterfaceError)
        self._targets = Reconnects(lambda: _Target(options), lambda target: target.connection.close(), faults)

    @override
    def close(self, context: Context[SinkOptions]) -> None:
        self._targets.close()

    @override
    def process(self, message: Message, context: Context[SinkOptions]) -> Any:
        return self.process_batch([message], context)[0]

    @override
    def process_batch(self, messages: list[Message], context: Context[SinkOptions]) -> Any:
        with self._targets.use() as target:
            return store_batch(messages, context.options, target.columns.keys(), target.store, (_RefusedRow,))


class _Staging(NamedTuple):
    """The statements for a temporary table with certain columns: rows are copied into it, and inserted from there."""

    create: sql.Composed
    clear: sql.Composed
    copy_into: sql.Composed
    insert: sql.Composed


class _RefusedRow(Exception):
    """The server refuses what is in a batch."""


class _Target:
    """A connection, and the table that is written by it. `columns`: their names, and whether they hold JSON."""

    def __init__(self, options: SinkOptions) -> None:
        import psycopg

        self._options = options
        self._staging: dict[tuple[str, ...], _Staging] = {}
        self.connection = _connect(options.dsn, options.password)
        try:
            found = self.connection.execute(_COLUMNS, [".".join(f'"{one}"' for one in options.table.split("."))])
            self.columns = {name: kind in ("json", "jsonb") for name, kind in found}
        except psycopg.Error as error:
            self.connection.close()
            if not isinstance(error, psycopg.OperationalError):
                raise OperatorError(words_of(error)) from error
            raise

    def store(self, rows: list[Row]) -> None:
        """In one transaction. Raises _RefusedRow, or what stands for whoever else is to blame."""
        import psycopg

        try:
            with self.connection.transaction():
                used: set[tuple[str, ...]] = set()
                for names, group in groups_of(rows, self._options.key):
                    self._copy(names, group, names in used)
                    used.add(names)
        except psycopg.OperationalError:
            raise
        except psycopg.errors.ReadOnlySqlTransaction as error:
            raise Throttled(REFUSED_S, words_of(error)) from error
        except psycopg.Error as error:
            if error.sqlstate in _OPERATORS:
                raise OperatorError(words_of(error)) from error
            raise _RefusedRow(words_of(error)) from error

    def _copy(self, names: tuple[str, ...], rows: list[Row], used: bool) -> None:
        from psycopg.types.json import Jsonb

        staging = self._staging.get(names) or self._staging.setdefault(names, self._make_staging(names))
        as_json = [self.columns[name] for name in names]
        with self.connection.cursor() as cursor:
            cursor.execute(staging.clear if used else staging.create)
            with cursor.copy(staging.copy_into) as copy:
                if any(as_json):
                    for row in rows:
                        values = zip(row.values(), as_json, strict=True)
                        copy.write_row(
                            [Jsonb(value) if json and value is not None else value for value, json in values]
                        )
                else:
                    for row in rows:
                        copy.write_row(tuple(row.values()))
            cursor.execute(staging.insert)

    def _make_staging(self, names: tuple[str, ...]) -> _Staging:
        from psycopg import sql

        key, comma = self._options.key, sql.SQL(", ")
        table, staging = _identifier(self._options.table), sql.Identifier(f"zpipe_{len(self._staging)}")
        columns = comma.join(map(sql.Identifier, names))
        create = sql.SQL(
            "CREATE TEMPORARY TABLE IF NOT EXISTS {} ON COMMIT DELETE ROWS AS SELECT {} FROM {} WITH NO DATA"
        )
        conflict: sql.Composable = sql.SQL("")
        if key:
            keys = comma.join(map(sql.Identifier, key))
            others = [name for name in names if name not in key]
            sets = [sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in others]
            update = sql.SQL("UPDATE SET {}").format(comma.join(sets)) if others else sql.SQL("NOTHING")
            # In the order of the key: of two batches with the same rows one waits for the other, and never each for the other.
            conflict = sql.SQL(" ORDER BY {0} ON CONFLICT ({0}) DO {1}").format(keys, update)
        return _Staging(
            create.format(staging, columns, table),
            sql.SQL("DELETE FROM {}").format(staging),
            sql.SQL("COPY {} ({}) FROM STDIN").format(staging, columns),
            sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}").format(table, columns, columns, staging) + conflict,
        )


_COLUMNS = """
SELECT attname, typname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
"""


def _connect(dsn: str, password: Secret | None) -> psycopg.Connection:
    import psycopg

    more: dict[str, Any] = {} if password is None else {"password": password.reveal()}
    try:
        return psycopg.connect(dsn, autocommit=True, **{"connect_timeout": CONNECT_S, **more})
    except psycopg.OperationalError as error:
        if any(part in str(error) for part in _DENIED):
            raise OperatorError(words_of(error)) from error
        raise


def _page_query(options: SourceOptions, has_position: bool) -> sql.Composed:
    from psycopg import sql

    comma = sql.SQL(", ")
    cursor = comma.join(map(sql.Identifier, options.cursor))
    columns = comma.join(map(sql.Identifier, options.selected)) if options.selected else sql.SQL("*")
    conditions: list[sql.Composable] = []
    if options.where:
        conditions.append(sql.SQL("({})").format(sql.SQL(options.where.replace("%", "%%"))))
    if has_position:
        conditions.append(sql.SQL("({}) > ({})").format(cursor, comma.join([sql.Placeholder()] * len(options.cursor))))
    where = sql.SQL(" WHERE {}").format(sql.SQL(" AND ").join(conditions)) if conditions else sql.SQL("")
    page = sql.SQL("SELECT {} FROM {}{} ORDER BY {} LIMIT {}")
    return page.format(columns, _identifier(options.table), where, cursor, sql.Literal(options.page))


def _identifier(table: str) -> sql.Identifier:
    from psycopg import sql

    return sql.Identifier(*table.split("."))
