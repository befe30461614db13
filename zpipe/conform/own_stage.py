"""What the stage under test is told: the config in JSON, and a file that a stage of zpipe's own can be checked with.

Must not live here: anything that a case does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zpipe.conform.verdicts import Kind

INTERVAL_S = 0.2
_CONFIG = """\
[pipeline]
name = "conform"

[telemetry]
interval = "{interval}s"

[stages.up]
plugin = "generate"
instances = 2

[stages.work]
input = "up"
plugin = "./{plugin}.py"
instances = 2
queue = {{ messages = {messages}, bytes = {size} }}
"""
_DOWN = """
[stages.down]
input = "work"
plugin = "discard"
instances = 2
"""
_MAP = '''\
"""Sends each payload on as it is; one that says `copies` so many times."""

import zpipe


class Map(zpipe.Map[None]):
    @zpipe.override
    def process(self, message, context):
        payload = message.payload
        if isinstance(payload, dict) and "copies" in payload:
            return zpipe.many([payload] * payload["copies"]) if payload["copies"] else zpipe.DROP
        return message
'''
_SINK = '''\
"""Appends the id of each message to a file, as a line, durably."""

import os
from dataclasses import dataclass

import zpipe


@dataclass
class Options:
    path: str


class Sink(zpipe.Sink[Options]):
    @zpipe.override
    def process(self, message, context):
        with open(context.options.path, "a") as file:
            file.write(message.id + "\\n")
            file.flush()
            os.fsync(file.fileno())
'''


def write(root: Path, kind: Kind, messages: int, size: int) -> Path:
    """Writes the config of the stage's pipeline, and a plugin that does what is asked of it. Returns its path."""
    text = _CONFIG.format(plugin=kind, interval=INTERVAL_S, messages=messages, size=size)
    text += _DOWN if kind == "map" else f'options = {{ path = "{root / "stored.txt"}" }}\n'
    (root / f"{kind}.py").write_text(_MAP if kind == "map" else _SINK)
    path = root / "conform.toml"
    path.write_text(text)
    return path


def resolved(kind: Kind, store: Path, messages: int, size: int) -> dict[str, Any]:
    """What ZPIPE_CONFIG has."""
    return {
        "pipeline": "conform",
        "stage": "work",
        "inputs": [{"stage": "up", "outlet": "", "instances": 2, "elsewhere": []}],
        "outputs": [{"outlet": "", "to": "down"}] if kind == "map" else [],
        "queue": {"messages": messages, "bytes": size},
        "unacked": {"messages": 10_000, "bytes": 64 << 20},
        "interval_s": INTERVAL_S,
        "peer_timeout_s": 5.0,
        "host": "",
        "hosts": {},
        "listen": None,
        "options": {} if kind == "map" else {"path": str(store)},
    }
