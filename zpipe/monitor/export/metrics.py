"""Every metric that zpipe exports, once: its name, kind, unit and labels, what it means, what to do, where its values come from.

The table of metrics belongs here, and reading their values out of the model. Must not live here: serving them (`exporter`).

Counters end in _total, gauges in their unit. An instance that is silent gives no samples, so that old figures never look current.
One that stopped or failed keeps its counters, which are final. What an instance has stored is exported whatever became of its
process, since an alert on it must not end with the process. The label is `stage_instance`, since a Prometheus server
sets `instance` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from zpipe.core.ledger import COUNT_ROWS
from zpipe.core.lifecycle import State

STAGE = ("pipeline", "stage")
INSTANCE = (*STAGE, "stage_instance")
LINK = ("pipeline", "upstream", "outlet", "consumer")
PRODUCER = (*LINK, "stage_instance")
ZERO_OR_ONE = "0 or 1"
EDGES_S = tuple(1e-6 * (1 << power) for power in range(7, 33))
"""The upper edges of the buckets of a latency: powers of two from 128 µs to 72 minutes, since an instance counts in such buckets
(`core/processing/time_budget.py`), so that nothing has to be divided between two of them."""
PLUGIN_EDGES = tuple(2.0**power for power in range(-13, 33))
"""Likewise of a histogram that a plugin has (`zpipe/plugin_metrics.py`), which may measure anything."""
_ENDED = (State.STOPPED.value, State.FAILED.value)

Value = dict[str, Any]
"""What `PipelineModel.as_json` gives."""


class Distribution(NamedTuple):
    """A sample of a histogram: (upper edge, how many in all are below it) for each bucket, the last one +Inf; their sum."""

    buckets: list[tuple[str, float]]
    sum: float


Sample = tuple[tuple[str, ...], Any]
"""(the values of the labels, the number, or the Distribution of a histogram)"""
Samples = Callable[[Value], Iterator[Sample]]


@dataclass(frozen=True)
class Metric:
    """`remedy`: what to do about it where it is worrying; empty where it only describes."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    help: str
    samples: Samples
    remedy: str = ""


# ---- reading samples out of the model's value


def _instances(value: Value, ended: bool, silent: bool = False) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The snapshots that are current, with their labels; `ended`, `silent`: also those that can or do say nothing more."""
    for name, stage in value["stages"].items():
        for snapshot in stage["instances"]:
            number = snapshot["instance"]
            if (silent or number not in stage["silent"]) and (ended or snapshot["state"] not in _ENDED):
                yield (value["pipeline"], name, str(number)), snapshot


def now(key: str, ended: bool = False, silent: bool = False) -> Samples:
    """A figure of the snapshot that is true only while the instance lives."""
    return lambda value: ((labels, row[key]) for labels, row in _instances(value, ended, silent) if key in row)


def count(key: str) -> Samples:
    """A counter of the snapshot."""
    return now(key, ended=True)


def stored(key: str) -> Samples:
    """Something of the snapshot that stays on the instance's disk, whatever has become of its process."""
    return now(key, ended=True, silent=True)


def each(key: str, ended: bool = True, read: Callable[[Any], Any] = lambda entry: entry) -> Samples:
    """Each entry of a map in the snapshot. Its name is the last label."""
    return lambda value: (
        ((*labels, name), read(entry))
        for labels, row in _instances(value, ended)
        for name, entry in (row.get(key) or {}).items()
    )


def _distribution(histogram: dict[str, Any], edges_: tuple[float, ...] = EDGES_S) -> Distribution:
    rows = histogram["buckets"]
    below = [sum(messages for upper_s, messages in rows if upper_s <= edge_s) for edge_s in edges_]
    edges = [f"{edge_s:.6f}".rstrip("0") for edge_s in edges_]
    return Distribution([*zip(edges, below, strict=True), ("+Inf", histogram["messages"])], histogram["sum_s"])


def _of_plugin(histogram: dict[str, Any]) -> Distribution:
    return _distribution(histogram, PLUGIN_EDGES)


def ages(value: Value) -> Iterator[Sample]:
    return ((labels, max(0.0, value["at"] - at)) for labels, at in now("at", silent=True)(value))


def states(value: Value) -> Iterator[Sample]:
    for name, stage in value["stages"].items():
        found = dict.fromkeys((*(state.value for state in State), "SILENT", "ABSENT", "UNHEARD"), 0)
        for row in stage["instances"]:
            found["SILENT" if row["instance"] in stage["silent"] else row["state"]] += 1
        found["ABSENT"], found["UNHEARD"] = len(stage["absent"]), len(stage["unheard"])
        yield from (((value["pipeline"], name, state), number) for state, number in found.items())


def whether(key: str) -> Samples:
    """1 where the snapshot has something there, 0 where it has nothing or lacks the key."""
    return lambda value: ((labels, float(bool(row.get(key)))) for labels, row in _instances(value, ended=False))


def builds(value: Value) -> Iterator[Sample]:
    for labels, row in _instances(value, ended=False):
        if row.get("version"):
            yield (*labels, row["version"]), 1.0


def bottleneck(value: Value) -> Iterator[Sample]:
    slow = (value["bottleneck"] or {}).get("stage")
    return (((value["pipeline"], name), float(name == slow)) for name in value["stages"])


def needed(value: Value) -> Iterator[Sample]:
    found = value["bottleneck"] or {}
    if found.get("instances_needed") is not None:
        yield (value["pipeline"], found["stage"]), found["instances_needed"]


def progress(key: str) -> Samples:
    """Of a source as a whole; nothing where it does not say."""
    return lambda value: (
        ((value["pipeline"], name), stage["progress"][key])
        for name, stage in value["stages"].items()
        if stage["progress"] is not None and stage["progress"][key] is not None
    )


def link(key: str) -> Samples:
    """Of a link as a whole; nothing where nobody can say."""
    return lambda value: (
        ((value["pipeline"], row["from"], row["outlet"], row["to"]), row[key])
        for row in value["links"]
        if row.get(key) is not None
    )


def producer(key: str, ended: bool) -> Samples:
    """Of a link, as each producer counts it."""
    return lambda value: (
        ((pipeline, stage, str(row.get("outlet", "")), str(row["to"]), number), row[key])
        for (pipeline, stage, number), snapshot in _instances(value, ended)
        for row in snapshot["links"]
        if key in row
    )


def buffer(key: str, stays: bool = True, read: Callable[[Any], Any] = lambda found: found) -> Samples:
    """Of the disk buffer of a link, as its producer has it. `stays`: it is on the disk, whatever has become of the process."""
    return lambda value: (
        ((pipeline, stage, str(row.get("outlet", "")), str(row["to"]), number), read(row["buffer"][key]))
        for (pipeline, stage, number), snapshot in _instances(value, ended=stays, silent=stays)
        for row in snapshot["links"]
        if key in row.get("buffer", ())
    )


# ---- the table

_DEAD = "above 0: `zpipe dead list CONFIG` says why; mend the cause, then `zpipe dead replay`, or `drop`"


def _counter(name: str, labels: tuple[str, ...], help: str, samples: Samples, remedy: str = "") -> Metric:
    unit = "frames" if name.startswith("frames") else "messages"
    return Metric(f"zpipe_{name}_total", "counter", unit, labels, help, samples, remedy)


def _gauge(name: str, unit: str, labels: tuple[str, ...], help: str, samples: Samples, remedy: str = "") -> Metric:
    return Metric(f"zpipe_{name}", "gauge", unit, labels, help, samples, remedy)


METRICS: tuple[Metric, ...] = (
    _gauge("instances", "instances", (*STAGE, "state"), "Instances by state. ABSENT: of the config, and never heard of;"
           " UNHEARD: not yet, a moment after the start. SILENT:"
           " not heard of for three intervals", states, "start what is ABSENT; look into the log of what is SILENT or FAILED"),
    _gauge("snapshot_age_seconds", "seconds", INSTANCE, "Since the instance took its last snapshot, by its clock and the"
           " exporter's", ages, "far above `interval`: the process is stopped, or its host does not answer"),
    _gauge("bottleneck", ZERO_OR_ONE, STAGE, "1 for the stage that holds up the others", bottleneck,
           "more instances of it, or workers; `zpipe monitor` says why"),
    _gauge("needed_instances", "instances", STAGE, "How many instances of the bottleneck would keep up with its input", needed),
    *(_counter(row.metric, INSTANCE, row.help, count(row.name), row.advice) for row in COUNT_ROWS if row.metric is not None),
    Metric("zpipe_restarts_total", "counter", "restarts", (*INSTANCE, "reason"), "Crashes after which the instance was started"
           " again, by exit code or signal, since it was last started after an end in order", each("restarts"),
           "`crash.found` in its log: what was in a call, and where it stood"),
    Metric("zpipe_worker_restarts_total", "counter", "restarts", (*INSTANCE, "reason"), "Worker processes that died or were"
           " killed at a limit, by exit code, signal, `timeout` or `memory`", each("worker_restarts"),
           "`worker.died` in its log: what was in the call, and where it stood"),
    _gauge("dead_stored_messages", "messages", INSTANCE, "Dead letters that are stored now, also those of earlier starts. While"
           " an instance does not run, as many as it had", stored("dead_stored"), _DEAD),
    _gauge("dead_stored_bytes", "bytes", INSTANCE, "Bytes of them", stored("dead_stored_bytes")),
    _gauge("queued_messages", "messages", INSTANCE, "Messages that wait here for the plugin", now("queued")),
    _gauge("queued_bytes", "bytes", INSTANCE, "Bytes of them", now("queued_bytes")),
    _gauge("in_process_messages", "messages", INSTANCE, "Messages that the plugin has, or that wait to be tried again",
           now("in_process")),
    _gauge("retrying_messages", "messages", INSTANCE, "Messages that wait to be tried again", now("retrying"),
           "the plugin fails: see its log"),
    _gauge("oldest_seconds", "seconds", INSTANCE, "How long the first of the queue has waited", now("oldest_s"),
           "growing: the stage is too slow, paused, or stuck in one call"),
    _gauge("time_ratio", "ratio", (*INSTANCE, "share"), "Where the time of the workers went in the last interval; the shares"
           " add up to 1", each("budget", ended=False),
           "mostly `working`: this is the limit; mostly `blocked`: what comes after it is"),
    Metric("zpipe_latency_seconds", "histogram", "seconds", (*INSTANCE, "kind"), "How long messages take: `in_stage` from arrival"
           " to the result; `since_origin` since the source made the message, of one in each section. Its buckets are powers of"
           " two", each("latency_histogram", read=_distribution),
           "percentiles: `histogram_quantile(0.99, sum by (stage, kind, le) (rate(zpipe_latency_seconds_bucket[5m])))`"),
    _gauge("paused", ZERO_OR_ONE, INSTANCE, "1 while an operator has it paused", whether("paused"),
           "`zpipe resume CONFIG STAGE`"),
    _gauge("held", ZERO_OR_ONE, INSTANCE, "1 while it waits for something outside the pipeline, such as room on a disk",
           whether("held_by"), "`zpipe monitor` and its log say for what; nothing is lost meanwhile"),
    _gauge("stopped_by_dead_letters", ZERO_OR_ONE, INSTANCE, "1 while it takes no more work: too many of its last messages became"
           " dead letters (the circuit breaker), or as many are stored as `dead` allows", whether("stopped_by"),
           "`zpipe dead list CONFIG`; mend the cause, then `zpipe resume CONFIG STAGE`, or replay or drop what is stored"),
    Metric("zpipe_plugin_total", "counter", "any", (*INSTANCE, "name"), "Counters of the stage's plugin, by their names",
           each("plugin_counters")),
    Metric("zpipe_plugin_value", "gauge", "value", (*INSTANCE, "name"), "Gauges of the stage's plugin",
           each("plugin_gauges", ended=False)),
    Metric("zpipe_plugin_distribution", "histogram", "distribution", (*INSTANCE, "name"), "Histograms of the stage's plugin."
           " Their buckets are powers of two", each("plugin_histograms", read=_of_plugin)),
    _gauge("build_info", ZERO_OR_ONE, (*INSTANCE, "version"), "Always 1; `version` is what the instance runs", builds,
           "several versions at once: somebody has to be started again"),
    Metric("zpipe_cpu_seconds_total", "counter", "seconds", INSTANCE, "CPU that the instance used, with its worker processes",
           count("cpu_s")),
    Metric("zpipe_cpu_wait_seconds_total", "counter", "seconds", INSTANCE, "Time for which its threads were ready to run and"
           " had no core", count("cpu_wait_s"), "near the rate of `zpipe_cpu_seconds_total`: the machine has too few cores"),
    _gauge("resident_bytes", "bytes", INSTANCE, "Memory of the process (RSS)", now("rss_bytes")),
    _gauge("source_finished_messages", "messages", STAGE, "Messages of a source that are finished in every sink, with what"
           " earlier runs finished", progress("finished")),
    _gauge("source_total_messages", "messages", STAGE, "Messages that a source has in all, where it says so", progress("total")),
    _gauge("link_depth_messages", "messages", LINK, "Messages that wait on the link, at both ends", link("depth"),
           "growing: see `zpipe_bottleneck`"),
    _gauge("link_depth_bytes", "bytes", LINK, "Bytes of them", link("depth_bytes")),
    _gauge("link_oldest_seconds", "seconds", LINK, "How long the oldest that waits at either end has waited", link("oldest_s")),
    _gauge("link_full_in_seconds", "seconds", LINK, "Until the producers can put nothing more, at this rate; 0: now. Only while"
           " it fills", link("full_in_s"), "then what comes before it is blocked, up to the source"),
    _gauge("link_empty_in_seconds", "seconds", LINK, "Until nothing waits, at this rate. Only while it empties",
           link("empty_in_s")),
    _counter("link_produced", PRODUCER, "Outputs made for the link", producer("produced", True)),
    _counter("link_acked", PRODUCER, "Outputs acked: finished with all that was made of them", producer("acked", True)),
    _counter("link_redelivered", PRODUCER, "Outputs sent again after a session was lost", producer("redelivered", True),
             "consumers die or hang: their logs"),
    _gauge("link_unsent_messages", "messages", PRODUCER, "Outputs that wait for credit", producer("unsent", False)),
    _gauge("link_in_flight_messages", "messages", PRODUCER, "Outputs sent and not acked", producer("in_flight", False),
           "at the bound `unacked`: the producer waits for acks"),
    _gauge("buffer_stored_messages", "messages", PRODUCER, "Messages in the disk buffer that no consumer has", buffer("stored"),
           "growing: what comes after is away or too slow; at the bound `messages` its producer waits"),
    _gauge("buffer_stored_bytes", "bytes", PRODUCER, "Bytes of them", buffer("stored_bytes")),
    _gauge("buffer_disk_bytes", "bytes", PRODUCER, "Bytes of the buffer's files, with what is finished and not removed yet",
           buffer("disk_bytes"), "near the bound `bytes`: its producer waits"),
    _gauge("buffer_pending_messages", "messages", PRODUCER, "Outputs that are not durable yet", buffer("pending", False)),
    _gauge("buffer_unreadable_messages", "messages", PRODUCER, "Messages in the disk buffer that the disk did not give",
           buffer("unreadable"), "above 0: the disk fails. They are kept, and read again at the next start"),
    _counter("buffer_lost", PRODUCER, "Messages that were damaged on the disk, since the start", buffer("lost"),
             "above 0: the disk fails. `zpipe buffer verify CONFIG`; the places are kept in the buffer's folder `bad`"),
    _gauge("buffer_damaged_places", "places", PRODUCER, "Damaged places that were found in its files", buffer("bad"),
           "above 0: the disk fails, or the power did; look whether messages were lost"),
    _gauge("buffer_write_seconds", "seconds", PRODUCER, "What the last write took", buffer("write_s", False)),
    _gauge("buffer_sync_seconds", "seconds", PRODUCER, "What the last fdatasync took", buffer("sync_s", False),
           'above 0.05: the disk is slow; `sync = "interval:50ms"` has it sync less often'),
    _gauge("buffer_failing", ZERO_OR_ONE, PRODUCER, "1 while the disk is full, failing or read-only, so that the buffer"
           " takes nothing, or does not give all that it has", buffer("trouble", False, lambda found: float(bool(found))),
           "`zpipe monitor` and the log say why; nothing is lost meanwhile"),
)  # fmt: skip
