"""SIGHUP: what of a changed config can be taken over while running. May live here: that list, and applying it."""

from __future__ import annotations

import dataclasses
import logging

from zpipe.config import PipelineConfig
from zpipe.core.stage import Stage

_TOP = {"name": "pipeline.name", "peer_timeout_s": "pipeline.peer_timeout", "insecure": "security.insecure"}


def reload(old: PipelineConfig, new: PipelineConfig, stage: Stage, log: logging.Logger) -> tuple[list[str], list[str]]:
    """Applies what can change. Returns (keys taken over, keys that need a restart of the instance).

    `options` are the plugin's and are not compared: a change of them always needs a restart.
    """
    taken, left = [], []
    if new.interval_s != old.interval_s:
        stage.set_interval(new.interval_s)
        taken.append("telemetry.interval")
    if new.log_level != old.log_level:
        log.setLevel(new.log_level.upper())
        taken.append("telemetry.log_level")
    for name, key in _TOP.items():
        if getattr(new, name) != getattr(old, name):
            left.append(key)
    mine = stage.me.stage
    before, after = old.stages[mine], new.stages.get(mine)
    if after is None:
        return taken, [*left, f"stages.{mine}"]
    for field in dataclasses.fields(before):
        if field.name != "options" and getattr(before, field.name) != getattr(after, field.name):
            left.append(f"stages.{mine}.{'input' if field.name == 'inputs' else field.name}")
    if old.consumers(mine) != new.consumers(mine):
        left.append("stages.*.input")
    return taken, left
