"""SIGHUP: what of a changed config can be taken over while running. May live here: that list, and applying it."""

from __future__ import annotations

import dataclasses
import logging

from zpipe.config import PipelineConfig
from zpipe.core.stage import Stage


def reload(old: PipelineConfig, new: PipelineConfig, stage: Stage, log: logging.Logger) -> tuple[list[str], list[str]]:
    """Applies what can change. Returns (keys taken over, keys that need a restart of the instance)."""
    taken, left = [], []
    if new.interval_s != old.interval_s:
        stage.set_interval(new.interval_s)
        taken.append("telemetry.interval")
    if new.log_level != old.log_level:
        log.setLevel(new.log_level.upper())
        taken.append("telemetry.log_level")
    for name in ("name", "peer_timeout_s", "insecure"):
        if getattr(new, name) != getattr(old, name):
            left.append(f"pipeline.{name}")
    mine = stage.me.stage
    before, after = old.stages[mine], new.stages.get(mine)
    if after is None:
        return taken, [*left, f"stages.{mine}"]
    for field in dataclasses.fields(before):
        if field.name != "options" and getattr(before, field.name) != getattr(after, field.name):
            left.append(f"stages.{mine}.{field.name}")
    if old.consumers(mine) != new.consumers(mine):
        left.append("stages.*.input")
    return taken, left
