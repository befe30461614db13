"""Reading one [stages.NAME] table: its keys, their defaults and bounds. Does not belong here: what compares stages
(`topology`)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Literal, TypeVar

from zpipe.config import addresses
from zpipe.config.hosts import read_placement
from zpipe.config.jetstream_table import read_link
from zpipe.config.pipeline_config import Input, StageConfig, Use, Workers
from zpipe.config.reading import values
from zpipe.config.reading.table_reader import TableReader
from zpipe.core.policy import BatchPolicy, Bound, BufferPolicy, DeadPolicy, LimitPolicy, RetryPolicy, StagePolicy

P = TypeVar("P", BatchPolicy, Bound, BufferPolicy, DeadPolicy, RetryPolicy, Workers)
_DEFAULTS = StagePolicy()
_LATER = frozenset({"key"})
"""Keys that the design has and this version does not."""
_OF_PLUGINS = ("workers", "retry", "batch", "limit", "use", "tick", "codec", "buffer")
"""Keys that say how a plugin is called. A program in another language calls nothing of zpipe's."""
MOST_INSTANCES = 1000
LEAST_BUFFER_BYTES = 1024 * 1024
"""Of a disk buffer: some segments, of which the last is being written."""
MOST_SYNC_S = 10.0
"""What is not synced holds up the acks of everything above it, and a neighbour that hears nothing for long is taken for dead."""
MOST_CALLS = 10_000
"""The most calls a `limit` may allow at once. Each is a task and a coroutine, and mostly a connection."""
_RATE = values.number_of(float, "a number of calls a second from 0.001 to 1,000,000", lambda rate: 0.001 <= rate <= 1e6)


def read_stage(name: str, table: TableReader) -> StageConfig:
    """The stage without its options, which only its plugin can read. A default stands in for each wrong value, which is then
    in the report."""
    queue = _bound(table.table("queue"), _DEFAULTS.queue)
    foreign = "command" in table
    stage = StageConfig(
        name=name,
        plugin="" if foreign else table.require("plugin", values.string, ""),
        command=tuple(table.get_list("command", values.string)) if foreign else (),
        inputs=tuple(table.get_list("input", _read_input)) if "input" in table else (),
        options=dict(table.table("options").values) if foreign else None,
        instances=table.get("instances", values.whole_number(most=MOST_INSTANCES), 1),
        workers=_workers(table.table("workers")),
        queue=queue,
        unacked=_bound(table.table("unacked"), _DEFAULTS.unacked),
        retry=_retry(table.table("retry")),
        dead=_dead(table.table("dead")),
        batch=_batch(table.table("batch"), queue) if "batch" in table else None,
        limit=_limit(table.table("limit")) if "limit" in table else None,
        buffer=_buffer(table.table("buffer")) if "buffer" in table else None,
        codec=table.get("codec", values.choice("msgpack", "cbor"), _DEFAULTS.link.codec),
        use=tuple(table.get_list("use", _read_use)) if "use" in table else (),
        tick_s=table.get("tick", values.duration(), StageConfig.tick_s),
        listen=tuple(table.get_list("listen", addresses.read_listen)) if "listen" in table else (),
        port=table.get("port", values.whole_number(most=65535), None),
        link=read_link(table.table("link")) if "link" in table else None,
    )
    if "host" in table:
        on_hosts = table.get_list("host", read_placement)
        hosts = tuple(host for host, count in on_hosts for _ in range(stage.instances if count is None else count))
        stage = replace(stage, hosts=hosts, instances=max(len(hosts), 1))
    table.allow("plugin", "command", "input", "batch", "limit", "buffer", "listen", "link", "options", "use", "host")
    for key in ("plugin", *_OF_PLUGINS) if foreign else ():
        if key in table:
            problem = "is for a stage with a plugin; one with a command does that itself, or has it in its options"
            table.report.add((*table.path, key), problem, given=table.values[key])
    table.report_unknown_keys(_LATER)
    return stage


def _read_use(given: Any) -> Use:
    """Its options are read by its plugin."""
    if isinstance(given, str) and given:
        return Use(str(given))
    if isinstance(given, dict) and isinstance(given.get("plugin"), str) and given.keys() <= {"plugin", "options"}:
        return Use(str(given["plugin"]))
    raise values.refused('the name of a plugin, or { plugin = "NAME", options = { … } }', given)


def _read_input(given: Any) -> Input:
    allowed = 'a stage "NAME", or one of its outlets "NAME.OUTLET"'
    if not isinstance(given, str):
        raise values.refused(allowed, given)
    stage, dot, outlet = given.partition(".")
    try:
        return Input(values.name(stage), values.name(outlet) if dot else "")
    except ValueError:
        raise values.refused(allowed, given) from None


def _policy(table: TableReader, default: P, **readers: values.Reader[Any]) -> P:
    """`default` with what the table gives. A key has the name of its field, without the unit."""
    given = {
        field: table.get(re.sub("_(s|bytes)$", "", field), read, getattr(default, field))
        for field, read in readers.items()
    }
    table.report_unknown_keys()
    return replace(default, **given)


def _bound(table: TableReader, default: Bound) -> Bound:
    return _policy(table, default, messages=values.whole_number(), bytes=values.size)


def _workers(table: TableReader) -> Workers:
    workers = _policy(
        table,
        Workers(count_given="count" in table),
        kind=values.choice("thread", "process"),
        count=values.whole_number(most=1000),
        timeout_s=values.duration(),
        recycle_messages=values.whole_number(),
        memory_bytes=values.size,
    )
    if workers.kind == "thread" and not table.report.has_mistake_at(*table.path):
        problem = 'is for workers that can be replaced: kind = "process"'
        for key in [key for key in ("recycle_messages", "memory") if key in table]:
            table.report.add((*table.path, key), problem, given=table.values[key])
    return workers


def _retry(table: TableReader) -> RetryPolicy:
    retry = _policy(
        table,
        RetryPolicy(),
        attempts=values.whole_number(),
        delay_s=values.duration(zero=True),
        max_delay_s=values.duration(zero=True),
        deaths=values.whole_number(),
    )
    if "max_delay" not in table:
        # Who gives only a delay above the default maximum means that every delay is that long.
        return replace(retry, max_delay_s=max(retry.delay_s, retry.max_delay_s))
    if retry.max_delay_s < retry.delay_s and not table.report.has_mistake_at(*table.path):
        given = table.values["max_delay"]
        table.report.add((*table.path, "max_delay"), f"must not be below delay ({retry.delay_s:g}s)", given=given)
    return retry


def _dead(table: TableReader) -> DeadPolicy:
    return _policy(
        table,
        DeadPolicy(),
        messages=values.whole_number(),
        bytes=values.size,
        age_s=values.duration(),
        storm=values.fraction,
    )


def _buffer(table: TableReader) -> BufferPolicy:
    table.get("kind", values.choice("disk"), "disk")
    sync_s = table.get("sync", _read_sync, BufferPolicy.sync_s)
    table.allow("kind", "sync")
    return replace(_policy(table, BufferPolicy(), bytes=_buffer_size, messages=values.whole_number()), sync_s=sync_s)


def _buffer_size(given: Any) -> int:
    size = values.size(given)
    if size < LEAST_BUFFER_BYTES:
        raise values.refused(f"at least {values.show_size(LEAST_BUFFER_BYTES)}", given)
    return size


def _read_sync(given: Any) -> float:
    """Seconds from one sync of the disk to the next."""
    kind, colon, interval = given.partition(":") if isinstance(given, str) else ("", "", "")
    if kind == "batch" and not colon:
        return 0.0
    try:
        interval_s = values.duration()(interval) if kind == "interval" else 0.0
    except ValueError:
        interval_s = 0.0
    if not 0 < interval_s <= MOST_SYNC_S:
        raise values.refused(f'"batch", or "interval:" and a duration up to {MOST_SYNC_S:g}s', given)
    return interval_s


def _batch(table: TableReader, queue: Bound) -> BatchPolicy:
    default = BatchPolicy()
    # A small queue is no mistake where the batch has its default size: the default is then lowered to it.
    default = replace(default, messages=min(default.messages, queue.messages), bytes=min(default.bytes, queue.bytes))
    return _policy(table, default, messages=values.whole_number(), bytes=values.size, timeout_s=values.duration())


def _limit(table: TableReader) -> LimitPolicy:
    """With a rate alone, the number of calls is not limited. With any other key, or none, that number adapts."""
    default = LimitPolicy()
    rate = table.get("rate", _RATE, None)
    rate_alone = rate is not None and not ({"kind", "start", "max"} & table.values.keys())
    default_kind: Literal["aimd", "fixed"] = "fixed" if rate_alone else "aimd"
    kind = table.get("kind", values.choice("aimd", "fixed"), default_kind)
    start = table.get("start", values.whole_number(most=MOST_CALLS), None)
    most = table.get("max", values.whole_number(most=MOST_CALLS), None)
    table.report_unknown_keys()
    if not table.report.has_mistake_at(*table.path):
        _check_limit(table, kind, start, most, rate)
    if kind == "fixed":
        return LimitPolicy(kind, default.start, most, rate)
    most = default.max if most is None else most
    assert most is not None
    # A small max is no mistake where start has its default: the default is then lowered to it.
    return LimitPolicy(kind, min(default.start, most) if start is None else start, most, rate)


def _check_limit(table: TableReader, kind: str, start: int | None, most: int | None, rate: float | None) -> None:
    if kind == "fixed":
        if start is not None:
            problem = 'is where kind = "aimd" starts; with "fixed" leave it out, as the limit is always max'
            table.report.add((*table.path, "start"), problem, given=start)
        if most is None and rate is None:
            table.report.add(table.path, 'kind "fixed" needs max, or rate, or both', given=kind)
    elif start is not None and start > (most or LimitPolicy().max or MOST_CALLS):
        table.report.add((*table.path, "start"), f"must not be above max ({most or LimitPolicy().max})", given=start)
