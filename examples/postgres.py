"""A sink that keeps rows in a table of PostgreSQL: by their key, so that one that comes again overwrites itself."""

from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

import zpipe


@dataclass
class Options:
    dsn: str
    table: str
    key: str
    columns: list[str]


class Postgres(zpipe.Sink[Options]):
    @zpipe.override
    def traits(self, options: Options, config_dir: Path) -> zpipe.Traits:
        return zpipe.Traits(needs_network=True)

    @zpipe.override
    def process_batch(self, messages: list[zpipe.Message], context: zpipe.Context[Options]) -> None:
        options, comma = context.options, sql.SQL(", ")
        names = comma.join(map(sql.Identifier, options.columns))
        new = comma.join(sql.Identifier("excluded", name) for name in options.columns)
        upsert = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET ({}) = ROW({})").format(
            sql.Identifier(options.table), names, comma.join(map(sql.Placeholder, options.columns)),
            sql.Identifier(options.key), names, new,
        )  # fmt: skip
        try:
            with psycopg.connect(options.dsn) as connection, connection.cursor() as cursor:
                cursor.executemany(upsert, [message.payload for message in messages])
        except psycopg.OperationalError as error:  # it is away: no message's fault
            raise zpipe.Throttled(1.0, str(error)) from error
