"""Keys that a plugin has seen, in SQLite, for a time: for plugins that pass over what comes twice.

It survives `kill -9`: what was noted before the kill is there after it. A loss of power may take the last second of it.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zpipe import Throttled
from zpipe_plugins.jsontext import json_text

_BUSY_S = 30.0
_AGAIN_S = 1.0
_LOOKS = 10
"""In one window so often what is older is removed. A row may be there longer than the window, but does not count then."""


def digest(value: Any) -> bytes:
    """16 bytes that stand for any payload, whatever the order of its fields."""
    return hashlib.blake2b(json_text(_sorted(value)).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return list(map(_sorted, value)) if isinstance(value, list) else value


class SeenKeys:
    """window_s  how long a key counts from when it was first seen;  most: how many are kept, the newest ones"""

    def __init__(self, path: Path, window_s: float, most: int) -> None:
        self._window_s = window_s
        self._most = most
        self._look_at = 0.0
        self._connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS seen (key BLOB PRIMARY KEY, id TEXT, at REAL) WITHOUT ROWID"
        )
        self._connection.execute("CREATE INDEX IF NOT EXISTS seen_at ON seen (at)")

    def close(self) -> None:
        self._connection.close()

    def first(self, keys: Sequence[tuple[bytes, str]]) -> list[bool]:
        """For each (key, id of its message), whether this message is the first with its key. Notes it, durably, if it is.

        The message that was the first is the first again when it is redelivered, since nobody knows what had become of it.
        """
        with self._transaction():
            self._remove_old()
            return [self._is_first(key, id) for key, id in keys]

    def has(self, key: bytes) -> bool:
        """Whether it was noted, by any message."""
        with self._transaction():
            return self._found(key) is not None

    def _is_first(self, key: bytes, id: str) -> bool:
        found = self._found(key)
        if found is None:
            self._connection.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (key, id, time.time()))
        return found is None or found == id

    def _found(self, key: bytes) -> str | None:
        query = "SELECT id FROM seen WHERE key = ? AND at > ?"
        row = self._connection.execute(query, (key, time.time() - self._window_s)).fetchone()
        return None if row is None else str(row[0])

    def _remove_old(self) -> None:
        now = time.time()
        if now < self._look_at:
            return
        self._look_at = now + self._window_s / _LOOKS
        self._connection.execute("DELETE FROM seen WHERE at <= ?", (now - self._window_s,))
        newest = "SELECT at FROM seen ORDER BY at DESC LIMIT 1 OFFSET ?"
        self._connection.execute(f"DELETE FROM seen WHERE at <= ({newest})", (self._most,))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Worker processes of one instance share the file. A disk that is full, or locked, is no message's fault."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise Throttled(_AGAIN_S, f"its window of keys: {error}") from error
