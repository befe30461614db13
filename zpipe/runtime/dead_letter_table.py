"""Dead letters in SQLite: their table and every statement on it. Must not live here: who has the connection, and on which thread.

Numbers are never used again, so that a letter's name means one letter for ever. A letter marked for replay has a rate. The mark
goes when the message is a dead letter once more, the row when all that was derived from the message is acked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import sqlite3

STATE_FILE = "state.db"
"""The file in the state folder of an instance. The position is in it, too, so that one disk write makes both durable."""
STATE_VERSION = 2
"""The version of the schema of the whole file."""
HISTORY = 40
"""Lines that are stored of the history of a message, over all its replays."""

_SIZE = "length({0}.payload) + ifnull(length({0}.headers), 0) + length({0}.traceback) + length({0}.history)"
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS dead_letters (
    number INTEGER PRIMARY KEY AUTOINCREMENT, stage TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL,
    origin REAL NOT NULL, incarnation TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL, traceback TEXT NOT NULL,
    attempts INTEGER NOT NULL, deaths INTEGER NOT NULL, history TEXT NOT NULL, headers BLOB, payload BLOB NOT NULL,
    replays INTEGER NOT NULL DEFAULT 0, replay_rate REAL, suspicion INTEGER NOT NULL DEFAULT 0,
    source TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS dead_marked ON dead_letters (number) WHERE replay_rate IS NOT NULL;
CREATE INDEX IF NOT EXISTS dead_ids ON dead_letters (id);
CREATE TABLE IF NOT EXISTS dead_total (
    one INTEGER PRIMARY KEY CHECK (one = 1), messages INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO dead_total VALUES (1, 0, 0);
CREATE TRIGGER IF NOT EXISTS dead_added AFTER INSERT ON dead_letters BEGIN
    UPDATE dead_total SET messages = messages + 1, bytes = bytes + {_SIZE.format("new")}; END;
CREATE TRIGGER IF NOT EXISTS dead_gone AFTER DELETE ON dead_letters BEGIN
    UPDATE dead_total SET messages = messages - 1, bytes = bytes - ({_SIZE.format("old")}); END;
CREATE TRIGGER IF NOT EXISTS dead_changed AFTER UPDATE OF payload, headers, traceback, history ON dead_letters BEGIN
    UPDATE dead_total SET bytes = bytes + ({_SIZE.format("new")}) - ({_SIZE.format("old")}); END;
"""
"""The total is kept by triggers: counting 100,000 rows after each letter would be the stage's main work."""


def add_new_columns(connection: sqlite3.Connection) -> None:
    """Brings a table that an earlier zpipe made up to date. That zpipe can still use it, as it names the columns it writes."""
    if not connection.execute("SELECT 1 FROM pragma_table_info('dead_letters') WHERE name = 'source'").fetchone():
        connection.execute("ALTER TABLE dead_letters ADD COLUMN source TEXT NOT NULL DEFAULT ''")


@dataclass(frozen=True)
class LetterRow:
    """One dead letter as it is written: each field is a column of the table. `payload` and `headers` are CBOR; `source` is the
    input that the message came by, as the config names it."""

    stage: str
    id: str
    origin: float
    kind: str
    reason: str
    traceback: str
    attempts: int
    deaths: int
    history: tuple[str, ...]
    headers: bytes | None
    payload: bytes
    source: str


class Marked(NamedTuple):
    """A letter to be replayed: the message as it was. Each field is a column of the table.

    replay_rate  in messages a second: what the operator asked for
    suspicion    as of a Section: whether lives of this instance have ended while the plugin had it
    source       the input that it came by; "" in a letter that an earlier zpipe wrote
    """

    number: int
    id: str
    origin: float
    headers: bytes | None
    payload: bytes
    replay_rate: float
    suspicion: int
    source: str


_WRITTEN = ("at", "incarnation", *(field.name for field in fields(LetterRow)))
_INSERT = f"INSERT INTO dead_letters ({', '.join(_WRITTEN)}) VALUES (:{', :'.join(_WRITTEN)})"


def add(connection: sqlite3.Connection, row: LetterRow, incarnation: str) -> None:
    """Adds a letter. If an earlier incarnation has stored the same message, since it was killed before the ack or belonged to an
    earlier run, its row is brought up to date instead; if only the old one has a traceback, its history stays, too."""
    same = "SELECT number, traceback FROM dead_letters WHERE id = ? AND payload = ? AND incarnation <> ? LIMIT 1"
    found = connection.execute(same, (row.id, row.payload, incarnation)).fetchone()
    if found is not None:
        number, trace = found
        connection.execute(
            "UPDATE dead_letters SET at = ?, incarnation = ? WHERE number = ?", (time.time(), incarnation, number)
        )
        if row.traceback or not trace:
            connection.execute(
                "UPDATE dead_letters SET reason = ?, traceback = ?, attempts = ?, deaths = ?, history = ? WHERE number = ?",
                (row.reason, row.traceback, row.attempts, row.deaths, json.dumps(row.history), number),
            )
        return
    told = {"at": time.time(), "incarnation": incarnation, "history": json.dumps(row.history)}
    connection.execute(_INSERT, vars(row) | told)


def add_again(connection: sqlite3.Connection, number: int, row: LetterRow, incarnation: str) -> None:
    """A replayed message is a dead letter once more: brings its row up to date. One that was dropped meanwhile stays dropped."""
    found = connection.execute("SELECT history, replays FROM dead_letters WHERE number = ?", (number,)).fetchone()
    if found is None:
        return
    replays = found[1] + 1
    history = [*json.loads(found[0]), *(f"replay {replays}, {line}" for line in row.history)][-HISTORY:]
    connection.execute(
        "UPDATE dead_letters SET at = ?, incarnation = ?, reason = ?, traceback = ?, attempts = attempts + ?,"
        " deaths = deaths + ?, history = ?, replays = ?, replay_rate = NULL, suspicion = 0 WHERE number = ?",
        (
            *(time.time(), incarnation, row.reason, row.traceback, row.attempts, row.deaths, json.dumps(history)),
            *(replays, number),
        ),
    )


def remove(connection: sqlite3.Connection, number: int) -> None:
    """The replayed message is finished, with all that was derived from it."""
    connection.execute("DELETE FROM dead_letters WHERE number = ?", (number,))


def marked(connection: sqlite3.Connection, most: int, bytes_: int, without: Collection[int]) -> list[Marked]:
    """The next letters to be replayed, besides those `without`: up to so many, and bytes of them (but at least one)."""
    rows = connection.execute(
        f"SELECT {', '.join(Marked._fields)} FROM dead_letters WHERE replay_rate IS NOT NULL ORDER BY number LIMIT ?",
        (most + len(without),),
    )
    found: list[Marked] = []
    for row in map(Marked._make, rows):
        if row.number in without:
            continue
        bytes_ -= len(row.payload)
        if found and (bytes_ < 0 or len(found) == most):
            break
        found.append(row)
    return found


def add_suspicion(connection: sqlite3.Connection, start: int, stop: int, alone: bool) -> None:
    """The last life crashed while the plugin had these letters, or this one `alone`."""
    sql = "UPDATE dead_letters SET suspicion = max(suspicion, 1) + ? WHERE number >= ? AND number < ?"
    connection.execute(sql, (int(alone), start, stop))


def total(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many letters there are, and their bytes."""
    row: tuple[int, int] = connection.execute("SELECT messages, bytes FROM dead_total").fetchone()
    return row


def expire(connection: sqlite3.Connection, age_s: float) -> int:
    """Drops letters that are older and not marked for replay. Returns how many."""
    sql = "DELETE FROM dead_letters WHERE at < ? AND replay_rate IS NULL"
    return connection.execute(sql, (time.time() - age_s,)).rowcount


class Filter(NamedTuple):
    """Which letters of one instance: `reason` is a part of their reasons, ages are in seconds, `numbers` is None for any."""

    reason: str = ""
    older_s: float | None = None
    newer_s: float | None = None
    numbers: frozenset[int] | None = None

    def where(self) -> tuple[str, list[Any]]:
        """The condition in SQL and its values."""
        terms = ["1"]
        values: list[Any] = []
        now = time.time()
        if self.reason:
            terms.append("instr(reason, ?)")
            values.append(self.reason)
        if self.older_s is not None:
            terms.append("at <= ?")
            values.append(now - self.older_s)
        if self.newer_s is not None:
            terms.append("at >= ?")
            values.append(now - self.newer_s)
        if self.numbers is not None:
            terms.append("number IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(sorted(self.numbers)))
        return " AND ".join(terms), values
