"""Pipelines that tests of several commands run."""

from __future__ import annotations

CONFIG = """
[pipeline]
name = "watched"
[telemetry]
interval = "200ms"
[stages.make]
plugin = "generate"
options = { rate = 200 }
[stages.sink]
input = "make"
plugin = "discard"
"""
