"""The lines of the details: all that is known of one stage, one instance after another. Must not live here: their layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zpipe.core.ledger import COUNTS, OTHERS
from zpipe.monitor.formatting import count, crash_text, duration, local_time, precise, share, size
from zpipe.monitor.model.link import link_text
from zpipe.monitor.table.columns import HANGS, Line, wrap
from zpipe.monitor.table.rows import state_of, upstream

LATENCIES = {"in_stage": "in the stage", "since_origin": "since origin"}


def details(value: dict[str, Any], name: str, width: int) -> list[Line]:
    """As many lines as it takes: what is longer than the width goes on in the next."""
    return [part for line in _lines(value, name) for part in _broken(line, width)]


def _broken(line: Line, width: int) -> list[Line]:
    text = "".join(part for part, _ in line)
    if len(text) <= width and text.isascii() and text.isprintable():
        return [line]
    lead = " " * (len(text) - len(text.lstrip())) if width >= HANGS else ""
    return [[(lead + part, style)] for one in wrap(text, width - len(lead), line[-1][1]) for part, style in one]


def _lines(value: dict[str, Any], name: str) -> list[Line]:
    stage = value["stages"][name]
    word, style = state_of(stage)
    lines: list[Line] = [[(f"{name}: ", "bold"), (word, style)]]
    bottleneck = value["bottleneck"]
    if bottleneck and bottleneck["stage"] == name:
        lines += [[(f"  {bottleneck['why']}; {bottleneck['advice']}", "bold yellow")]]
    for what, found in (("takes no more", stage["stopped_by"]), ("is held up", stage["held_by"])):
        lines += [[(f"  {instance} {what}: {why}", "bold red")] for instance, why in found.items()]
    lines += [[(f"  from {upstream(link)}: {link_text(link)}", "")] for link in value["links"] if link["to"] == name]
    for snapshot in stage["instances"]:
        old = snapshot["instance"] in stage["silent"]
        head = f"{name}.{snapshot['instance']} {snapshot['state']}"
        if old:
            head += f", not heard for {duration(stage['stale_s'] or 0.0)}: what follows is that old"
        lines += [[], [(head, "bold red" if old else "bold")]]
        lines += [[(f"  {text}", "dim" if old else "")] for text in _instance(snapshot)]
    lines += [[(f"{name}.{instance} was never heard of", "red")] for instance in stage["absent"]]
    lines += [[(f"{name}.{instance} is not heard of yet", "yellow")] for instance in stage["unheard"]]
    return lines


def _times(by_reason: dict[str, int]) -> str:
    return ", ".join(f"{times:,} {reason}" for reason, times in by_reason.items())


def _instance(snapshot: dict[str, Any]) -> Iterator[str]:
    memory = size(snapshot["rss_bytes"]) if "rss_bytes" in snapshot else "memory not said"
    yield f"incarnation {snapshot['incarnation']}, pid {snapshot.get('pid', '?')}, {memory}"
    yield ", ".join(f"{key.replace('_', ' ')} {snapshot[key]:,}" for key in COUNTS)
    others = ", ".join(f"{key} {snapshot[key]:,}" for key in OTHERS if key in snapshot)
    if others:
        yield others
    if restarts := snapshot.get("restarts"):
        yield f"started again after crashes: {_times(restarts)}"
    if deaths := snapshot.get("worker_restarts"):
        yield f"worker processes that died: {_times(deaths)}"
    if crash := snapshot.get("last_crash"):
        yield f"the last at {local_time(crash.get('at', 0.0))}: {crash_text(crash)}"
    if snapshot.get("dead_stored"):
        yield f"dead letters stored {snapshot['dead_stored']:,} ({size(snapshot.get('dead_stored_bytes', 0))})"
    budget = snapshot.get("budget") or {}
    yield ", ".join(f"{key} {share(part)}" for key, part in budget.items()) or "no time budget"
    for kind, what in LATENCIES.items():
        latency = (snapshot.get("latency") or {}).get(kind) or {}
        if any(latency.values()):
            yield f"{what}: " + ", ".join(f"{key.removesuffix('_s')} {precise(s)}" for key, s in latency.items())
    limit = snapshot.get("limit") or {}
    if limit.get("limit") is not None:
        why = f", last changed because: {limit['reason']}" if limit.get("reason") else ""
        yield f"limit {limit['limit']:g} calls at once, {limit.get('under_way', 0)} under way{why}"
    if snapshot.get("paused"):
        yield "paused"
    if snapshot.get("waiting_for") and snapshot["state"] != "RUNNING":
        yield f"waits for {', '.join(snapshot['waiting_for'])}"
    for row in snapshot["links"]:
        outlet = f" by {row['outlet']}" if row.get("outlet") else ""
        yield (
            f"to {row.get('to')}{outlet}: produced {row['produced']:,} = acked {row['acked']:,}"
            f" + in flight {row['in_flight']:,} + unsent {row['unsent']:,}; redelivered {row.get('redelivered', 0):,}"
        )
        for peer in row.get("consumers", ()):
            yield (
                f"   {row.get('to')}.{peer.get('instance')}: credit {peer.get('credit', 0):,},"
                f" under way {peer.get('under_way', 0):,}, serves {count(peer.get('rate', 0.0))}/s"
            )
