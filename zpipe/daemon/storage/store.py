"""What an instance must not forget: its source's position and its dead letters, in SQLite, used by a thread of its own. Must not
live here: statements on dead letters, which are `dead_letter_table`'s.

WAL with synchronous=FULL: a position or dead letter is durable before anybody is told, also through a loss of power.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from zpipe.core.wire import cbor
from zpipe.errors import OperatorError, PeerError
from zpipe.runtime import dead_letter_table
from zpipe.runtime.dead_letter_table import STATE_VERSION

if TYPE_CHECKING:
    import sqlite3

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS position (
    one INTEGER PRIMARY KEY CHECK (one = 1), position BLOB, finished INTEGER NOT NULL, completed_by TEXT);
{dead_letter_table.SCHEMA}
"""
WAL_PAGES = 100
"""Keeps the write-ahead log to 400 KiB: SQLite's own 1,000 pages are more than many a small disk has left."""


class SavedPosition(NamedTuple):
    """Where the source stood. `completed_by`: the run that read it to its end; "" if none has."""

    position: Any = None
    finished: int = 0
    completed_by: str = ""


class Store:
    """`dead_letters`: how many it had when it was opened, and their bytes.

    The file is made by the first write. What comes before `start` is done on the calling thread. After that everything is done by
    the store's own thread.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / dead_letter_table.STATE_FILE
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._connection: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._work, name="zpipe-store", daemon=True)
        self.dead_letters = 0, 0
        if self.path.exists():
            with self._opened() as connection:
                self.dead_letters = dead_letter_table.total(connection)

    def _connect(self) -> sqlite3.Connection:
        """Raises OperatorError for a file of another version."""
        import sqlite3  # most stages never store anything, and do without its 2 MiB

        with ExitStack() as stack:
            connection = stack.enter_context(closing(sqlite3.connect(self.path, timeout=30.0)))
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, STATE_VERSION):
                raise OperatorError(f"{self.path} is of schema {version}; this zpipe knows {STATE_VERSION}")
            if version == 0:
                connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {STATE_VERSION}; COMMIT;")
            dead_letter_table.add_new_columns(connection)
            stack.pop_all()
            return connection

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction, on the caller's thread. Raises OperatorError for what SQLite raises."""
        import sqlite3

        try:
            with closing(self._connect()) as connection, connection:
                yield connection
        except sqlite3.Error as error:
            hint = "is its folder writable, and is there room on its disk?"
            raise OperatorError(f"cannot use the state file {self.path}: {error}; {hint}") from None

    def saved(self) -> SavedPosition:
        """The committed position. Raises OperatorError if it cannot be read."""
        if not self.path.exists():
            return SavedPosition()
        with self._opened() as connection:
            row = connection.execute("SELECT position, finished, completed_by FROM position").fetchone()
        if row is None:
            return SavedPosition()
        try:
            return SavedPosition(cbor.read(row[0]), row[1], row[2] or "")
        except PeerError as error:
            raise OperatorError(f"the position in {self.path} cannot be read ({error}); start with --fresh") from None

    def forget_position(self) -> None:
        """The source starts over."""
        if self.path.exists():
            with self._opened() as connection:
                connection.execute("DELETE FROM position")

    # ---- on the store's thread

    def start(self) -> None:
        self._thread.start()

    def commit(self, saved: SavedPosition, done: Callable[[Exception | None], None]) -> None:
        """Writes the position, then calls `done(None)`, or `done(error)`, on the store's thread. Does not block."""
        row = (cbor.write(saved.position), saved.finished, saved.completed_by or None)
        sql = (
            "INSERT INTO position VALUES (1, ?, ?, ?) ON CONFLICT (one) DO UPDATE"
            " SET position = excluded.position, finished = excluded.finished, completed_by = excluded.completed_by"
        )
        self.ask(lambda connection: connection.execute(sql, row), done)

    def ask(self, job: Callable[[sqlite3.Connection], Any], done: Callable[[Exception | None], None]) -> None:
        """Does `job` in a transaction, then calls `done` on the store's thread. Does not block."""

        def run() -> None:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                with self._connection:
                    job(self._connection)
            except Exception as error:  # whatever it is, the others must still be stored
                done(error)
            else:
                done(None)

        self._jobs.put(run)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
        if self._connection is not None:
            self._connection.close()

    def close(self) -> None:
        """Does what was asked for, then ends the thread."""
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()
