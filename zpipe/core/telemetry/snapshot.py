"""The snapshot: an instance's counts at one moment, and the identities they must meet.

The shape of a snapshot belongs here, and checking one. Whoever reads a snapshot of another process calls `taken_in` first, and
takes every key but the required ones as one that may be missing: an instance in another language may say less.

    received = completed + filtered + dead + returned + in_process + queued       (the stage)
    produced = acked + in_flight + unsent                                         (each link)
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from zpipe.core.downstream.downstream import Downstream
from zpipe.core.downstream.outgoing_link import OutgoingLink
from zpipe.core.ledger import COUNTS, OTHERS, Counts
from zpipe.core.lifecycle import Lifecycle, State
from zpipe.core.upstream.incoming_link import IncomingLink
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.work.delivery import Producer

WHO = ("pipeline", "stage", "incarnation")
LINK_COUNTS = ("produced", "acked", "in_flight", "unsent")
MOST = 2.0**64
_STATES = {state.value for state in State}
_NUMBERS = (
    *("at", "oldest_s", "queued_bytes", "rss_bytes", "cpu_s", "cpu_wait_s", "rate_in", "rate_out", "finished_before"),
    *("dead_stored", "dead_stored_bytes", *OTHERS),
)
_NUMBERS_OR_NULL = ("finished", "total", "read_messages", "read_s")
_MAPS_OF_NUMBERS = ("restarts", "worker_restarts", "plugin_counters")
_TEXTS = ("held_by", "stopped_by", "version")
_BUFFER_NUMBERS = (
    "stored", "stored_bytes", "disk_bytes", "segments", "pending", "unreadable", "lost", "bad", "write_s", "sync_s",
    "messages_bound", "bytes_bound",
)  # fmt: skip
_LINK_NUMBERS = ("in_flight_bytes", "unsent_bytes", "oldest_s", "redelivered", "returned")


def of_link(link: OutgoingLink, now: float) -> dict[str, Any]:
    """One link, as its producer sees it, with what its kind adds."""
    return {
        "outlet": link.name,
        "to": link.consumer,
        "produced": link.produced,
        "acked": link.acked,
        "in_flight": link.in_flight_messages,
        "in_flight_bytes": link.in_flight_bytes,
        "unsent": link.unsent_messages + link.stored_messages,
        "unsent_bytes": link.unsent_bytes + link.stored_bytes,
        "oldest_s": link.unsent_for_s(now),
        "redelivered": link.redelivered,
        "returned": link.returned,
        **link.figures(now),
    }


def of_sessions(inlet: Inlet) -> list[dict[str, Any]]:
    """The links into a stage, as it sees them: a row for each producer in session, to be laid beside that one's row of
    `consumers`. sent - received is on the way; unacked is what it holds in parcels that are not finished."""
    queued: Counter[Producer] = Counter()
    for piece in inlet.queue:
        if piece.delivery.producer is not None:
            queued[piece.delivery.producer] += piece.count
    return [
        {
            "from": session.producer.stage,
            "outlet": session.producer.outlet,
            "instance": session.producer.instance,
            "incarnation": session.producer.incarnation,
            "received": session.messages.received,
            "queued": queued[session.producer],
            "unacked": session.unacked,
        }
        for session in inlet.sessions
    ] + [
        {"from": link.stage, "outlet": link.outlet, "queued": queued[_producer(link, row)], **row}
        for link in inlet.links
        for row in link.figures()
    ]


def _producer(link: IncomingLink, row: dict[str, Any]) -> Producer:
    return Producer(link.stage, link.outlet, row["instance"], row["incarnation"])


class Parts(NamedTuple):
    """Where a stage's counts are."""

    me: Identity
    lifecycle: Lifecycle
    counts: Counts
    inlet: Inlet
    downstream: Downstream


def of_stage(parts: Parts, now: float) -> dict[str, Any]:
    """Everything that is counted; the report adds what is measured (rates, budget, latency), the shell its RSS."""
    me, inlet = parts.me, parts.inlet
    return {
        "pipeline": me.pipeline,
        "stage": me.stage,
        "instance": me.instance,
        "incarnation": me.incarnation,
        "state": parts.lifecycle.state.value,
        "abandoned": parts.lifecycle.abandoned,
        **{name: getattr(parts.counts, name) for name in COUNTS + OTHERS},
        "queued_bytes": inlet.queued_bytes,
        "held": inlet.held_messages,
        "held_bytes": inlet.held_bytes,
        "oldest_s": max(0.0, now - inlet.oldest_at),
        "inputs": [
            {"from": stage, "outlet": outlet, "dead": dead} for (stage, outlet), dead in inlet.dead_by_link.items()
        ],
        "sessions": of_sessions(inlet),
        "links": [of_link(link, now) for link in parts.downstream.links],
    }


def broken(snapshot: dict[str, Any]) -> list[str]:
    """The identities a snapshot breaks, in words; empty when it adds up."""
    problems = []
    received, *parts = (snapshot[name] for name in COUNTS)
    if received != sum(parts):
        terms = " + ".join(f"{name} {snapshot[name]}" for name in COUNTS[1:])
        problems.append(f"received {received} is not {terms}")
    for link in snapshot["links"]:
        counted = {name: link[name] for name in LINK_COUNTS[1:]}
        if lost := link.get("buffer", {}).get("lost", 0):
            counted["lost"] = lost
        if link["produced"] != sum(counted.values()):
            text = " + ".join(f"{name} {count}" for name, count in counted.items())
            problems.append(f"link to {link['to']}: produced {link['produced']} is not {text}")
    problems += [f"{name} is negative" for name in COUNTS if snapshot[name] < 0]
    return problems


def at_rest(snapshot: dict[str, Any]) -> bool:
    """Nothing queued, in process, in flight or unsent. What a stopped instance has stored is on its disk."""
    stopped = snapshot["state"] == State.STOPPED.value
    moving = [link["in_flight"] + link["unsent"] - (stored_in(link) if stopped else 0) for link in snapshot["links"]]
    return not (snapshot["queued"] or snapshot["in_process"] or any(moving))


def stored_in(link: dict[str, Any]) -> int:
    """Of what is unsent on a link, how much its disk buffer has."""
    stored: int = link.get("buffer", {}).get("stored", 0)
    return stored


# ---- a snapshot of another process


def taken_in(body: dict[Any, Any]) -> dict[str, Any] | None:
    """A snapshot as it came from elsewhere, ready for every reader; None if it is none.

    Keys whose values JSON cannot hold (byte strings, NaN) are passed over like any key that nobody knows: what is shown and
    recorded is JSON, and a program in another language may say of itself what it likes.
    """
    if not _is_json(body):
        body = {key: value for key, value in body.items() if _is_json({key: value})}
    return body if sound(body) else None


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):  # a type, or a number
        return False
    return True


def sound(snapshot: dict[str, Any]) -> bool:
    """Whether it has what PROTOCOL.md 5.9 requires, and numbers where numbers belong.

    It may come from another program, or another version, and whoever reads it must not fall over it.
    """
    links, state = snapshot.get("links"), snapshot.get("state")
    return (
        all(_is_count(snapshot.get(key)) for key in (*COUNTS, "instance"))
        and all(isinstance(snapshot.get(key), str) for key in WHO)
        and isinstance(state, str)
        and state in _STATES
        and _numbers(snapshot, _NUMBERS)
        and all(_is_number(snapshot.get(key) or 0) for key in _NUMBERS_OR_NULL)
        and all(isinstance(snapshot.get(key) or "", str) for key in _TEXTS)
        and _are_texts(snapshot.get("waiting_for") or [])
        and _sound_refusals(snapshot.get("refusals") or [])
        and _numbers(snapshot.get("budget") or {})
        and all(_numbers(row) for row in _values(snapshot.get("latency") or {}))
        and all(_sound_histogram(row) for row in _values(snapshot.get("latency_histogram") or {}))
        and isinstance(links, list)
        and all(_sound_link(link) for link in links)
        and _all_rows(snapshot.get("sessions", []), ("received", "queued", "unacked", "instance"))
        and _all_rows(snapshot.get("inputs", []), ("dead",))
        and all(isinstance(row.get(key), str) for row in snapshot.get("inputs", []) for key in ("from", "outlet"))
        and _sound_limit(snapshot.get("limit") or {})
        and all(_numbers(snapshot.get(key) or {}) for key in _MAPS_OF_NUMBERS)
        and all(map(_is_finite, _values(snapshot.get("plugin_gauges") or {})))
        and all(_sound_histogram(row) for row in _values(snapshot.get("plugin_histograms") or {}))
        and _sound_crash(snapshot.get("last_crash") or {})
    )


def _sound_link(link: Any) -> bool:
    return (
        isinstance(link, dict)
        and isinstance(link.get("to"), str)
        and isinstance(link.get("outlet", ""), str)
        and all(_is_count(link.get(key)) for key in LINK_COUNTS)
        and _numbers(link, _LINK_NUMBERS)
        and _all_rows(link.get("consumers", []), ("credit", "under_way", "sent", "in_flight", "rate"))
        and _sound_buffer(link.get("buffer", {}))
    )


def _sound_buffer(buffer: Any) -> bool:
    return _numbers(buffer, _BUFFER_NUMBERS) and isinstance(buffer.get("trouble", ""), str)


def _sound_refusals(rows: Any) -> bool:
    return _all_rows(rows, ("times", "last_s")) and all(
        isinstance(row.get(key), str) for row in rows for key in ("peer", "reason")
    )


def _sound_crash(crash: Any) -> bool:
    return (
        _numbers(crash, ("at", "messages_in_call"))
        and isinstance(crash.get("how", ""), str)
        and _are_texts(crash.get("ids", []))
    )


def _sound_histogram(histogram: Any) -> bool:
    keys = ("messages", "sum_s")
    if not _numbers(histogram, keys) or not all(key in histogram for key in keys):
        return False
    rows = histogram.get("buckets")
    return isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == 2 and all(map(_is_number, row)) for row in rows
    )


def _sound_limit(limit: Any) -> bool:
    """One that limits calls a second only has no `limit` of calls at once."""
    numbers = _numbers(limit, ("under_way", "changed_s"))
    numbers = numbers and all(_is_number(limit.get(key) or 0) for key in ("limit", "rate"))
    return numbers and isinstance(limit.get("reason") or "", str)


def _all_rows(rows: Any, keys: tuple[str, ...]) -> bool:
    return isinstance(rows, list) and all(_numbers(row, keys) for row in rows)


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(one, str) for one in values)


def _values(table: Any) -> list[Any]:
    return list(table.values()) if isinstance(table, dict) else [None]


def _numbers(row: Any, keys: Iterable[str] | None = None) -> bool:
    """Whether it is a map in which these keys (None: all) are numbers, or missing."""
    return isinstance(row, dict) and all(_is_number(row.get(key, 0)) for key in (row if keys is None else keys))


def _is_number(value: Any) -> bool:
    """Of a size that can be added up and multiplied: sums of larger ones are no numbers any more."""
    return _is_count(value) or (isinstance(value, float) and abs(value) < MOST)


def _is_finite(value: Any) -> bool:
    """What a plugin measures may be of any size, and nothing is computed with it."""
    return _is_count(value) or (isinstance(value, float) and math.isfinite(value))


def _is_count(value: Any) -> bool:
    """Of at most 64 bits: with some larger integers nothing can be computed."""
    return isinstance(value, int) and value.bit_length() <= 64
