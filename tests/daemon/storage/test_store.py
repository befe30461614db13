"""The state file of an instance: when it comes into being, and what is refused."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from zpipe.daemon.storage.store import SavedPosition, Store
from zpipe.errors import OperatorError


def test_file_is_made_by_the_first_write(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.start()
    assert (store.dead_letters, store.saved()) == ((0, 0), SavedPosition())
    store.forget_position()
    assert not store.path.exists()
    written = threading.Event()
    errors: list[Exception | None] = []

    def done(error: Exception | None) -> None:
        errors.append(error)
        written.set()

    store.commit(SavedPosition(7, 8, "run"), done)
    assert written.wait(30) and errors == [None]
    store.close()
    again = Store(tmp_path)
    assert (again.dead_letters, again.saved()) == ((0, 0), SavedPosition(7, 8, "run"))
    again.forget_position()
    assert again.saved() == SavedPosition()


def test_file_of_another_version_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        connection.execute("PRAGMA user_version = 1")
    with pytest.raises(OperatorError, match="schema 1; this zpipe knows 2"):
        Store(tmp_path)
