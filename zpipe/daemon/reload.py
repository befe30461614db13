"""SIGHUP: what of a changed config can be taken over while running. Reading the file again belongs here, and applying it. Must
not live here: the signal."""

from __future__ import annotations

import dataclasses
import logging
import time
import tomllib
from collections.abc import Mapping

from zpipe.config import PipelineConfig, config_record, load
from zpipe.config.pipeline_config import StageConfig, Workers
from zpipe.core.events import IntervalChanged, LimitChanged
from zpipe.core.stage import Stage
from zpipe.errors import ConfigError
from zpipe.runtime.logs import fields

_TOP = {
    "name": "pipeline.name",
    "peer_timeout_s": "pipeline.peer_timeout",
    "insecure": "security.insecure",
    "traces": "telemetry.traces",
    "trace_rate": "telemetry.trace_rate",
}


def reload(old: PipelineConfig, env: Mapping[str, str], stage: Stage, log: logging.Logger) -> PipelineConfig:
    """Reads the file again, takes over what can change and logs what cannot. Returns the config that holds now."""
    try:
        new = load(old.path, env=env, only="")
    except ConfigError as error:
        log.error(fields(event="reload.failed", reason=error))
        return old
    taken, left = _apply(old, new, stage, log)
    log.info(fields(event="reloaded", taken=" ".join(taken) or None, needs_restart=" ".join(left) or None))
    mine, stages = stage.me.stage, dict(old.stages)
    if mine in new.stages:
        stages[mine] = dataclasses.replace(stages[mine], limit=new.stages[mine].limit)
    hosts = {name: dataclasses.replace(host, keys=_keys(new, name)) for name, host in old.hosts.items()}
    adopted = dataclasses.replace(old, hosts=hosts, interval_s=new.interval_s, log_level=new.log_level, stages=stages)
    if not left and config_record.options_digest(old.text, mine) == config_record.options_digest(new.text, mine):
        return dataclasses.replace(adopted, text=new.text)  # the instance runs by this file now
    return adopted


def _apply(old: PipelineConfig, new: PipelineConfig, stage: Stage, log: logging.Logger) -> tuple[list[str], list[str]]:
    """Applies what can change. Returns (keys taken over, keys that need a restart of the instance).

    `options` are the plugin's and are not compared: a change of them always needs a restart.
    """
    taken, left = [], []
    if new.interval_s != old.interval_s:
        stage.handle(IntervalChanged(new.interval_s), time.monotonic())
        taken.append("telemetry.interval")
    if new.log_level != old.log_level:
        log.setLevel(new.log_level.upper())
        taken.append("telemetry.log_level")
    for name, key in _TOP.items():
        if getattr(new, name) != getattr(old, name):
            left.append(key)
    if [_keys(old, name) for name in old.hosts] != [_keys(new, name) for name in old.hosts]:
        taken.append("hosts.*.key")
    if [(one.name, one.address) for one in old.hosts.values()] != [
        (one.name, one.address) for one in new.hosts.values()
    ]:
        left.append("hosts")
    mine = stage.me.stage
    if _uses_nats(old, mine) and _nats_table(old) != _nats_table(new):
        left.append("security.nats")
    before, after = old.stages[mine], new.stages.get(mine)
    if after is None:
        return taken, [*left, f"stages.{mine}"]
    if before.limit != after.limit:
        stage.handle(LimitChanged(after.limit), time.monotonic())
        taken.append(f"stages.{mine}.limit")
    # The number of instances concerns only whoever starts them, so this one needs no restart.
    same = {name: getattr(before, name) for name in ("options", "traits", "limit", "instances")}
    after = dataclasses.replace(after, **same, workers=_workers(before, after))
    for field in dataclasses.fields(before):
        if getattr(before, field.name) != getattr(after, field.name):
            left.append(f"stages.{mine}.{'input' if field.name == 'inputs' else field.name}")
    if old.consumers(mine) != new.consumers(mine):
        left.append("stages.*.input")
    links = {name: old.stages[name].link for _, name in old.consumers(mine) if name in new.stages}
    left += [f"stages.{name}.link" for name, link in links.items() if new.stages[name].link != link]
    return taken, left


def _uses_nats(config: PipelineConfig, stage: str) -> bool:
    ends = [stage, *(consumer for _, consumer in config.consumers(stage))]
    return any(config.stages[name].link is not None for name in ends)


def _nats_table(config: PipelineConfig) -> object:
    """The table as it is written: a reload expands no variables, as secrets are read at the start alone."""
    return tomllib.loads(config.text).get("security", {}).get("nats")


def _keys(config: PipelineConfig, host: str) -> tuple[str, ...]:
    return config.hosts[host].keys if host in config.hosts else ()


def _workers(before: StageConfig, after: StageConfig) -> Workers:
    """The new workers. Where neither config gives a count it follows from the plugin, which a reload does not load: it stays."""
    if before.workers.count_given or after.workers.count_given:
        return after.workers
    return dataclasses.replace(after.workers, count=before.workers.count)
