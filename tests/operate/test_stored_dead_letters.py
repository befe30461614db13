"""Dead letters on disk, asked for from outside while their instance has only begun to keep any."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from zpipe.config import load
from zpipe.folders import make_private
from zpipe.operate.stored_dead_letters import Selection, StoredDeadLetters
from zpipe.runtime.dead_letter_table import STATE_FILE
from zpipe.runtime.places import Places

CONFIG = """
[pipeline]
name = "new"
[stages.make]
plugin = "generate"
[stages.sink]
input = "make"
plugin = "discard"
"""


@pytest.mark.parametrize("begun", [False, True], ids=["empty", "without tables"])
def test_a_state_file_whose_tables_are_still_to_be_made_has_no_letters(home: Path, begun: bool) -> None:
    (home / "p.toml").write_text(CONFIG)
    config = load(home / "p.toml", only="")
    folder = Places(config, os.environ).state("make", 1)
    make_private(folder)
    (folder / STATE_FILE).touch()
    if begun:
        with closing(sqlite3.connect(folder / STATE_FILE)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
    letters = StoredDeadLetters(config, os.environ)
    assert letters.find(Selection()) == {} and letters.instances_with_marked() == set()
