"""Reading one [stages.NAME] table. May live here: the keys of a stage, their defaults and their own bounds."""

from __future__ import annotations

from typing import Any, Literal

from zpipe.config import addresses, values
from zpipe.config.limits import read_limit
from zpipe.config.mistakes import shown
from zpipe.config.pipeline import Input, StageConfig, Workers
from zpipe.config.table import ConfigTable
from zpipe.core.policy import BatchPolicy, Bound, DeadPolicy, RetryPolicy, StagePolicy

_DEFAULTS = StagePolicy()
_LATER = frozenset({"buffer", "key"})
MOST_INSTANCES = 1000


def read_stage(name: str, table: ConfigTable) -> StageConfig:
    """The stage without its options, which need the plugin. Stand-ins for what is wrong; the report knows."""
    queue = _bound(table.table("queue"), _DEFAULTS.queue)
    stage = StageConfig(
        name=name,
        plugin=table.require("plugin", values.string, ""),
        inputs=tuple(table.get_list("input", _read_input)) if "input" in table else (),
        options=None,
        instances=table.get("instances", values.whole(most=MOST_INSTANCES), 1),
        workers=_workers(table.table("workers")),
        queue=queue,
        unacked=_bound(table.table("unacked"), _DEFAULTS.unacked),
        retry=_retry(table.table("retry")),
        dead=_dead(table.table("dead")),
        batch=_batch(table.table("batch"), queue) if "batch" in table else None,
        limit=read_limit(table.table("limit")) if "limit" in table else None,
        listen=tuple(table.get_list("listen", addresses.read_listen)) if "listen" in table else (),
    )
    table.know("input", "batch", "limit", "listen", "options")
    table.finish(_LATER)
    return stage


def _read_input(given: Any) -> Input:
    allowed = 'a stage "NAME", or one of its outlets "NAME.OUTLET"'
    if not isinstance(given, str):
        raise values.refused(allowed, given)
    stage, dot, outlet = given.partition(".")
    try:
        return Input(values.name(stage), values.name(outlet) if dot else "")
    except ValueError:
        raise values.refused(allowed, given) from None


def _bound(table: ConfigTable, default: Bound) -> Bound:
    bound = Bound(
        messages=table.get("messages", values.whole(), default.messages),
        bytes=table.get("bytes", values.size, default.bytes),
    )
    table.finish()
    return bound


def _workers(table: ConfigTable) -> Workers:
    workers = Workers(
        kind=table.get("kind", _read_worker_kind, "thread"),
        count=table.get("count", values.whole(most=1000), 1),
        count_given="count" in table,
        timeout_s=table.get("timeout", values.duration(), None),
        recycle_messages=table.get("recycle_messages", values.whole(), None),
        memory_bytes=table.get("memory", values.size, None),
    )
    table.finish()
    if workers.kind == "thread" and not table.report.spoiled(*table.path):
        problem = 'is for workers that can be replaced: kind = "process"'
        for key in [key for key in ("recycle_messages", "memory") if key in table]:
            table.report.add((*table.path, key), problem, given=table.values[key])
    return workers


def _read_worker_kind(given: Any) -> Literal["thread", "process"]:
    if given == "thread":
        return "thread"
    if given == "process":
        return "process"
    raise ValueError(f'must be "thread" or "process", not {shown(given)}')


def _retry(table: ConfigTable) -> RetryPolicy:
    default = RetryPolicy()
    delay = table.get("delay", values.duration(zero=True), default.delay_s)
    retry = RetryPolicy(
        attempts=table.get("attempts", values.whole(), default.attempts),
        delay_s=delay,
        # A longer delay alone means: always that long.
        max_delay_s=table.get("max_delay", values.duration(zero=True), max(delay, default.max_delay_s)),
        deaths=table.get("deaths", values.whole(), default.deaths),
    )
    if retry.max_delay_s < delay and not table.report.spoiled(*table.path):
        given = table.values["max_delay"]
        table.report.add((*table.path, "max_delay"), f"must not be below delay ({delay:g}s)", given=given)
    table.finish()
    return retry


def _dead(table: ConfigTable) -> DeadPolicy:
    default = DeadPolicy()
    dead = DeadPolicy(
        messages=table.get("messages", values.whole(), default.messages),
        bytes=table.get("bytes", values.size, default.bytes),
        age_s=table.get("age", values.duration(), default.age_s),
        storm=table.get("storm", values.share, default.storm),
    )
    table.finish()
    return dead


def _batch(table: ConfigTable, queue: Bound) -> BatchPolicy:
    default = BatchPolicy()
    batch = BatchPolicy(
        # A small queue alone is no mistake: a default gives way to it, a number that somebody wrote does not.
        messages=table.get("messages", values.whole(), min(default.messages, queue.messages)),
        bytes=table.get("bytes", values.size, min(default.bytes, queue.bytes)),
        timeout_s=table.get("timeout", values.duration(), default.timeout_s),
    )
    table.finish()
    return batch
