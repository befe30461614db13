"""`sql`: reads a table of any database of SQLAlchemy in the order of a cursor, or stores each payload as a row, by its key.

Without an input it is a source. It reads the rows after its position page by page, and with `poll` goes on when new ones
come. A cursor has to grow in the order in which rows are committed: a row that is committed later with a smaller one is
not read. Values that are no plain ones (times, decimals) are text.

With an input it is a sink. A batch is one transaction, so give the stage a `batch`. A row whose key is there is
overwritten, with the fields that the payload has: by an upsert on SQLite, PostgreSQL, MySQL and MariaDB, and elsewhere by
deleting and adding it. For PostgreSQL and MySQL, [`postgres`](#postgres) and [`mysql`](#mysql) are quicker. The database's own
driver has to be installed, too.

```toml
[stages.store]
input = "read"
plugin = "sql"
batch = { messages = 1000, timeout = "200ms" }
options = { url = "postgresql+psycopg://shop@db.example/shop", password = "${SHOP_PASSWORD}", table = "orders", key = ["id"] }
```

| fault | what follows |
|---|---|
| no connection, a locked database, other errors that the driver calls operational | the stage waits, and connects again |
| a value that the column does not take, a constraint | a dead letter with the database's words; the rest is stored |
| a payload that is no map, lacks the key, or has a field without a column | a dead letter |
| no such table or column, a wrong password where the driver tells it | the stage ends |

**Resume.** A position is the cursor of the last row: a start goes on after it.

**Redelivery.** A row is stored once, by its key. Without a `key` it is added again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from zpipe import Context, Message, Secret, Sink, Source, Traits, override
from zpipe.errors import OperatorError
from zpipe_plugins.databases.cursor_source import CursorOptions, Page, Position, read_pages
from zpipe_plugins.databases.table_sink import Row, TableOptions, groups_of, store_batch
from zpipe_plugins.reconnect import Reconnect, words_of
from zpipe_plugins.service_plugin import ServiceOptions, ServicePlugin, address

if TYPE_CHECKING:
    import sqlalchemy as sa

_DENIED = (
    "authentication failed",
    "Access denied",
    "does not exist",
    "Unknown database",
    "no such table",
    "no such column",
)
"""Parts of what databases say when only a person can help, in errors that their drivers call operational."""


@dataclass(kw_only=True)
class UrlOptions(ServiceOptions):
    url: Annotated[str, "of SQLAlchemy: `postgresql+psycopg://user@host/name`, `sqlite:///file.db` beside the config"]
    password: Annotated[Secret | None, "of the user in the url"] = None

    def __post_init__(self) -> None:
        if "://" not in self.url:
            raise ValueError(f"url is {self.url!r}: allowed is DIALECT+DRIVER://USER@HOST/NAME")
        super().__post_init__()

    @property
    @override
    def services(self) -> tuple[str, ...]:
        """Without a port it is that of the dialect."""
        import sqlalchemy as sa

        try:
            where = sa.make_url(self.url)  # it takes passwords with a slash, which others take for the end of the host
        except (sa.exc.SQLAlchemyError, ValueError):
            return ()
        return (address(where.get_backend_name(), where.host, where.port or ""),) if where.host else ()

    @override
    def problems(self) -> Iterator[tuple[str, str]]:
        import sqlalchemy as sa

        try:
            sa.make_url(self.url).get_dialect().import_dbapi()
        except ModuleNotFoundError as error:
            yield (
                "url",
                f"its driver {error.name} is not installed: pip install it, or name another after a + in the url",
            )
        except (sa.exc.SQLAlchemyError, ValueError) as error:  # ValueError: its port is no number
            yield "url", words_of(error)


@dataclass(kw_only=True)
class SourceOptions(UrlOptions, CursorOptions): ...


@dataclass(kw_only=True)
class SinkOptions(UrlOptions, TableOptions): ...


class _Unavailable(Exception):
    """The database, or the way to it."""


class _RefusedRow(Exception):
    """The database refuses what is in a batch."""


UrlOptionsT = TypeVar("UrlOptionsT", bound=UrlOptions)


class _Sql(ServicePlugin[UrlOptionsT]):
    extra, module = "sql", "sqlalchemy"

    @override
    def traits(self, options: UrlOptionsT, config_dir: Path) -> Traits:
        if not options.url.startswith("sqlite"):
            return super().traits(options, config_dir)
        database = options.url.partition(":///")[2].partition("?")[0]
        return Traits(writes=(config_dir / database,) if database else ())


class SqlSource(_Sql[SourceOptions], Source[SourceOptions, Position]):
    _target: Reconnect[_Target]

    @override
    def open(self, context: Context[SourceOptions]) -> None:
        self._target = _reconnect(context.options, context.config_dir)

    @override
    def close(self, context: Context[SourceOptions]) -> None:
        self._target.close()

    @override
    def source(self, context: Context[SourceOptions, Position]) -> Iterator[tuple[Position, dict[str, Any]]]:
        options = context.options
        yield from read_pages(context, options, partial(self._page_after, options), context.stopping.wait)

    def _page_after(self, options: SourceOptions, after: list[Any] | None) -> Page:
        import sqlalchemy as sa

        with self._target.use() as target:
            table = target.table
            try:
                cursor = [table.c[name] for name in options.cursor]
                query = sa.select(*([table.c[name] for name in options.selected] or table.c))
                if options.where:
                    query = query.where(sa.text(options.where))
                if after is not None:
                    values = [_typed(value, column) for value, column in zip(after, cursor, strict=True)]
                    query = query.where(sa.tuple_(*cursor) > values if len(cursor) > 1 else cursor[0] > values[0])
                with target.connection.begin():
                    found = target.connection.execute(query.order_by(*cursor).limit(options.page))
                    return list(found.keys()), found.fetchall()
            except KeyError as error:
                raise OperatorError(f"the table {options.table} has no column {error}") from None
            except sa.exc.SQLAlchemyError as error:
                raise _judged(error, OperatorError) from error


class SqlSink(_Sql[SinkOptions], Sink[SinkOptions]):
    _target: Reconnect[_Target]

    @override
    def open(self, context: Context[SinkOptions]) -> None:
        self._target = _reconnect(context.options, context.config_dir)

    @override
    def close(self, context: Context[SinkOptions]) -> None:
        self._target.close()

    @override
    def process(self, message: Message, context: Context[SinkOptions]) -> Any:
        return self.process_batch([message], context)[0]

    @override
    def process_batch(self, messages: list[Message], context: Context[SinkOptions]) -> Any:
        options = context.options
        with self._target.use() as target:
            store = partial(_store, target, options)
            return store_batch(messages, options, {*target.table.c.keys()}, store, (_RefusedRow,))


class _Target:
    """A connection, and the table as the database describes it."""

    def __init__(self, options: SourceOptions | SinkOptions, config_dir: Path) -> None:
        import sqlalchemy as sa

        try:
            url = _url(options, config_dir)
            self._engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
            self.connection = self._engine.connect()
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            raise _judged(error, OperatorError) from error
        schema, _, name = options.table.rpartition(".")
        try:
            self.table = sa.Table(name, sa.MetaData(), schema=schema or None, autoload_with=self.connection)
            self.connection.rollback()
        except sa.exc.NoSuchTableError:
            self.close()
            raise OperatorError(f"there is no table {options.table!r}: it does not exist") from None
        except sa.exc.SQLAlchemyError as error:
            self.close()
            raise _judged(error, OperatorError) from error
        self._upserts: dict[tuple[str, ...], Any] = {}

    def close(self) -> None:
        self.connection.close()
        self._engine.dispose()

    def upsert(self, names: tuple[str, ...], key: list[str]) -> Any:
        if names not in self._upserts:
            self._upserts[names] = _upsert(self.table, self._engine.dialect.name, names, key)
        return self._upserts[names]


def _reconnect(options: SourceOptions | SinkOptions, config_dir: Path) -> Reconnect[_Target]:
    return Reconnect(lambda: _Target(options, config_dir), _Target.close, (_Unavailable,))


def _store(target: _Target, options: SinkOptions, rows: list[Row]) -> None:
    """In one transaction. Raises _RefusedRow, or what stands for whoever else is to blame."""
    import sqlalchemy as sa

    key = options.key
    try:
        with target.connection.begin():
            for names, group in groups_of(rows, key):
                statement = target.upsert(names, key)
                if statement is None:  # the dialect has no upsert of its own
                    table = target.table
                    same = sa.and_(*(table.c[name] == sa.bindparam(f"key_{name}") for name in key))
                    target.connection.execute(
                        table.delete().where(same), [{f"key_{name}": row[name] for name in key} for row in group]
                    )
                    statement = table.insert()
                target.connection.execute(statement, [dict(row) for row in group])
    except sa.exc.SQLAlchemyError as error:
        raise _judged(error, _RefusedRow) from error


def _upsert(table: sa.Table, dialect: str, names: tuple[str, ...], key: list[str]) -> Any:
    """An INSERT with these columns that overwrites a row with the same key; None where the dialect has none."""
    if not key:
        return table.insert()
    others = [name for name in names if name not in key]
    if dialect in ("sqlite", "postgresql"):
        import importlib

        insert = importlib.import_module(f"sqlalchemy.dialects.{dialect}").insert(table)
        if not others:
            return insert.on_conflict_do_nothing(index_elements=key)
        return insert.on_conflict_do_update(index_elements=key, set_={name: insert.excluded[name] for name in others})
    if dialect in ("mysql", "mariadb"):
        from sqlalchemy.dialects.mysql import insert as mysql_insert

        made = mysql_insert(table)
        return made.on_duplicate_key_update({name: made.inserted[name] for name in others or key[:1]})
    return None


def _judged(error: Exception, otherwise: type[Exception]) -> Exception:
    """What to raise for an error of SQLAlchemy, in the words of the database."""
    import sqlalchemy as sa

    words = words_of(getattr(error, "orig", None) or error)
    if isinstance(error, sa.exc.NoSuchModuleError | sa.exc.ArgumentError | ImportError):
        return OperatorError(words)
    if not isinstance(error, sa.exc.DBAPIError):
        return otherwise(words)
    if any(part in words for part in _DENIED):
        return OperatorError(words)
    lost = error.connection_invalidated or isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
    return _Unavailable(words) if lost else otherwise(words)


def _typed(value: Any, column: sa.Column[Any]) -> Any:
    """A value of a position as the column's type has it: times are text in positions."""
    try:
        kind = column.type.python_type
    except NotImplementedError:
        return value
    if kind in (datetime, date, time) and isinstance(value, str):
        return kind.fromisoformat(value)
    return kind(value) if not isinstance(value, kind) else value


def _url(options: SourceOptions | SinkOptions, config_dir: Path) -> sa.URL:
    """With the password, and with the path of an SQLite file that is relative to the config."""
    import sqlalchemy as sa

    url = sa.make_url(options.url)
    if url.get_backend_name() == "sqlite" and url.database and not url.database.startswith((":", "file:")):
        url = url.set(database=str(config_dir / url.database))
    return url if options.password is None else url.set(password=options.password.reveal())
