"""A secret in a systemd credential: only the unit of the stage that names it gets it, and its plugin."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from machine import ENV, MakePipeline, shell, wait_until

STORE = Path("/etc/credstore")
CONFIG = """
[pipeline]
name = "sealed"

[stages.read]
plugin = "generate"
options = { rate = 100 }

[stages.seal]
input = "read"
plugin = "./sealing.py"
options = { token = "Bearer ${credential:sealed-token}" }

[stages.store]
input = "seal"
plugin = "sqlite"
options = { path = "/var/lib/zpipe/data/sealed.db", table = "t", key = "id" }
"""
PLUGIN = """
from dataclasses import dataclass

import zpipe


@dataclass
class Options:
    token: zpipe.Secret


class Seal(zpipe.Map[Options]):
    def process(self, message, context):
        known = context.options.token == zpipe.Secret("Bearer hunter2-of-systemd")
        return {**message.payload, "known": known, "shown": str(context.options.token)}
"""


def stored() -> list[tuple[int, str]]:
    try:
        with closing(sqlite3.connect("/var/lib/zpipe/data/sealed.db")) as connection:
            return connection.execute("SELECT DISTINCT known, shown FROM t").fetchall()
    except sqlite3.OperationalError:
        return []


def test_a_credential_is_given_to_the_one_unit(make: MakePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    STORE.mkdir(mode=0o700, exist_ok=True)
    credential = STORE / "sealed-token"
    credential.write_text("hunter2-of-systemd\n")
    monkeypatch.setitem(ENV, "CREDENTIALS_DIRECTORY", str(STORE))  # as `zpipe units` needs it
    try:
        pipeline = make("sealed", CONFIG, sealing=PLUGIN)
        pipeline.start()
        wait_until(stored, "rows of the stage with the credential")
        assert stored() == [(1, "***")]
        shell("systemctl reload zpipe@sealed.read.1.service")  # it needs no credential of another stage
        given = {path.parent.name for path in Path("/run/credentials").glob("zpipe@*/sealed-token")}
        assert given == {"zpipe@sealed.seal.1.service"}
        assert shell("grep -rl hunter2-of-systemd /run/zpipe /var/lib/zpipe || true") == ""
    finally:
        credential.unlink()
