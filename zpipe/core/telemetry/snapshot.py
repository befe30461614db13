"""The snapshot: an instance's counts at one moment, and the identities they must meet.

Checking a snapshot belongs here; `stage_report` makes one. Whoever reads one of another process calls `taken_in` first, and takes
every key but the required ones as one that may be missing: an instance in another language may say less.

    received = completed + filtered + dead + returned + in_process + queued       (the stage)
    produced = acked + in_flight + unsent                                         (each link)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from zpipe.core.ledger import COUNTS, OTHERS
from zpipe.core.lifecycle import State

WHO = ("pipeline", "stage", "incarnation")
LINK_COUNTS = ("produced", "acked", "in_flight", "unsent")
Check = Callable[[Any], bool]


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
    """How many of a link's unsent messages are in its disk buffer."""
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
    except (TypeError, ValueError):  # a type that JSON lacks, or NaN
        return False
    return True


def sound(snapshot: dict[str, Any]) -> bool:
    """Whether it has what PROTOCOL.md 5.9 requires, and numbers where numbers belong.

    It may come from another program, or another version, and whoever reads it must not fall over it.
    """
    return _SNAPSHOT(snapshot)


def _is_count(value: Any) -> bool:
    """Whether it is an integer of at most 64 bits: with some larger ones nothing can be computed."""
    return isinstance(value, int) and value.bit_length() <= 64


def _is_number(value: Any) -> bool:
    """Whether it is a number that can be added up and multiplied: sums of larger ones are no numbers any more."""
    return _is_count(value) or (isinstance(value, float) and abs(value) < 2.0**64)


def _is_finite(value: Any) -> bool:
    """Whether it is a finite number. Those that a plugin measures may be of any size, as nothing is computed with them."""
    return _is_count(value) or (isinstance(value, float) and math.isfinite(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _table(required: Mapping[str, Check], optional: Mapping[str, Check]) -> Check:
    """A check of maps: the required keys are there, and the value of each key named here fits. Other keys may be there, too."""
    checks = {**required, **optional}

    def fits(value: Any) -> bool:
        has_all = isinstance(value, dict) and required.keys() <= value.keys()
        return has_all and all(check(value[key]) for key, check in checks.items() if key in value)

    return fits


def _list(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _values(check: Check) -> Check:
    """A check of the values of a map with any keys."""
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _or_empty(check: Check) -> Check:
    return lambda value: not value or check(value)


def _each(check: Check, *keys: str) -> dict[str, Check]:
    return dict.fromkeys(keys, check)


_HISTOGRAM = _table(
    {**_each(_is_number, "messages", "sum_s"), "buckets": _list(lambda row: _list(_is_number)(row) and len(row) == 2)},
    {},
)
_BUFFER_NUMBERS = (
    "stored", "stored_bytes", "disk_bytes", "segments", "pending", "unreadable", "lost", "bad", "write_s", "sync_s",
)  # fmt: skip
_LINK = _table(
    {"to": _is_text, **_each(_is_count, *LINK_COUNTS)},
    {
        "outlet": _is_text,
        **_each(_is_number, "in_flight_bytes", "unsent_bytes", "oldest_s", "redelivered", "returned"),
        "consumers": _list(_table({}, _each(_is_number, "credit", "under_way", "sent", "in_flight", "rate"))),
        "buffer": _table(
            {}, {**_each(_is_number, *_BUFFER_NUMBERS, "messages_bound", "bytes_bound"), "trouble": _is_text}
        ),
        "jetstream": _table({}, {"trouble": _is_text}),
    },
)
_SESSION = _table({}, {**_each(_is_number, "received", "queued", "unacked", "instance"), "stream": _values(_is_number)})
_LIMIT = _table(
    {},
    {
        **_each(_is_number, "under_way", "changed_s"),
        **_each(_or_empty(_is_number), "limit", "rate"),  # one of calls a second only has no `limit` of calls at once
        "reason": _or_empty(_is_text),
    },
)
_CRASH = _table({}, {**_each(_is_number, "at", "messages_in_call"), "how": _is_text, "ids": _list(_is_text)})
_REFUSAL = _table(_each(_is_text, "peer", "reason"), _each(_is_number, "times", "last_s"))
_SNAPSHOT = _table(
    {
        **_each(_is_count, *COUNTS, "instance"),
        **_each(_is_text, *WHO),
        "state": lambda value: isinstance(value, str) and value in State.__members__,
        "links": _list(_LINK),
    },
    {
        **_each(
            _is_number, "at", "oldest_s", "queued_bytes", "rss_bytes", "cpu_s", "cpu_wait_s", "rate_in", "rate_out"
        ),
        **_each(_is_number, "finished_before", "dead_stored", "dead_stored_bytes", *OTHERS),
        **_each(_or_empty(_is_number), "finished", "total", "read_messages", "read_s"),
        **_each(_or_empty(_is_text), "held_by", "stopped_by", "version"),
        **_each(_or_empty(_values(_is_number)), "budget", "restarts", "worker_restarts", "plugin_counters"),
        **_each(_or_empty(_values(_HISTOGRAM)), "latency_histogram", "plugin_histograms"),
        "latency": _or_empty(_values(_values(_is_number))),
        "plugin_gauges": _or_empty(_values(_is_finite)),
        "waiting_for": _or_empty(_list(_is_text)),
        "refusals": _or_empty(_list(_REFUSAL)),
        "sessions": _list(_SESSION),
        "inputs": _list(_table(_each(_is_text, "from", "outlet"), {"dead": _is_number})),
        "limit": _or_empty(_LIMIT),
        "last_crash": _or_empty(_CRASH),
    },
)
