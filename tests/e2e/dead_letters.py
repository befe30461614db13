"""A pipeline whose middle stage fails on some messages, and the commands on what comes of that."""

from __future__ import annotations

import json
from typing import Any

from pipeline import Command, Pipeline, ids

from zpipe.core.work.stored_dead_letter import StoredDeadLetter
from zpipe.operate.stored_dead_letters import Selection, StoredDeadLetters

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = { count = 1000 }

[stages.work]
input = "read"
plugin = "python"
retry = { attempts = 2, delay = "5ms" }
options = { function = "work.py:work" }

[stages.store]
input = "work"
plugin = "sqlite"
batch = { messages = 100, timeout = "10m" }
options = { path = "out.db", table = "t", key = "id" }

[telemetry]
interval = "100ms"
"""
BAD = """
def work(payload):
    if payload["id"] % 100 == 7:
        raise ValueError(f"cannot work on {payload['id']}")
    return payload
"""
GOOD = "def work(payload):\n    return payload\n"
ENDLESS = CONFIG.replace("options = { count = 1000 }", "options = { rate = 300 }").replace('"10m"', '"50ms"')
PICKY = """
from pathlib import Path

def work(payload):
    if payload["id"] % 100 == 7 and not Path(__file__).with_name("mended").exists():
        raise ValueError("not mended yet")
    return payload
"""
"""Mended while it runs, by a file that appears."""


def dead(pipeline: Pipeline, *arguments: str, code: int = 0) -> Command:
    command = pipeline.zpipe("dead", arguments[0], str(pipeline.path), *arguments[1:])
    assert command.wait() == code, command.stdout + command.stderr
    return command


def kept(pipeline: Pipeline) -> list[StoredDeadLetter]:
    """All that are there now."""
    stored_dead_letters = StoredDeadLetters(pipeline.config, pipeline.env)
    return list(stored_dead_letters.letters(stored_dead_letters.find(Selection())))


def replayed(pipeline: Pipeline, *arguments: str, code: int = 0) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(dead(pipeline, "replay", "--json", *arguments, code=code).stdout)
    return result


def stored(pipeline: Pipeline) -> list[int]:
    return ids(pipeline.query("SELECT id FROM t ORDER BY id"))
