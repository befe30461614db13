"""Which stage holds up the others, why, and how many instances of it would keep up.

May live here: reading that out of the model's stages and links.

The bottleneck is a stage whose input is full (or, where none is, whose upstream is blocked), and among these the one
that is busiest with its own work: the others only pass its back-pressure on. A stage that is not running comes first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from zpipe.monitor.flow import LinkName

Stages = Mapping[str, dict[str, Any]]
Links = list[dict[str, Any]]
Peaks = Mapping[LinkName, float]

BLOCKED = 0.2
BUSY = 0.25
MOST_INSTANCES = 10_000
_OWN = {"working": "works", "limited": "is held back by its limit", "retrying": "waits to try again"}


def find(stages: Stages, links: Links, peaks: Peaks) -> dict[str, Any] | None:
    """`peaks`: the highest rate seen on each link. None if nothing holds up anything."""
    inputs: dict[str, Links] = {name: [link for link in links if link["to"] == name] for name in stages}
    for name, into in inputs.items():
        waiting = sum(link["depth"] for link in into)
        if waiting and not stages[name]["live"] and stages[name]["state"] != "STOPPED":
            how = {"ABSENT": "not running", "SILENT": "silent", "FAILED": "failed"}[stages[name]["state"]]
            why = f"{name} is {how} and {waiting:,} messages wait for it"
            return {"stage": name, "why": why, "instances_needed": None}
    full = [name for name, into in inputs.items() if any(link["full_in_s"] == 0.0 for link in into)]
    held = [name for name, into in inputs.items() if any(_blocked(stages, link) >= BLOCKED for link in into)]
    slow = max(full or held, key=lambda name: _own(stages[name]), default=None)
    if slow is None or _own(stages[slow]) < BUSY:
        return None
    needed = _instances(slow, stages, inputs, peaks)
    return {"stage": slow, "why": _why(slow, stages, inputs[slow]), "instances_needed": needed}


def _own(stage: dict[str, Any]) -> float:
    """The share of its time that a stage spends on its own account."""
    return float(sum(stage["budget"][share] for share in _OWN))


def _blocked(stages: Stages, link: dict[str, Any]) -> float:
    return float(stages[link["from"]]["budget"]["blocked"])


def _why(name: str, stages: Stages, into: Links) -> str:
    budget = stages[name]["budget"]
    most = max(_OWN, key=lambda share: budget[share])
    waiting = sum(link["depth"] for link in into)
    blocked = max(into, key=lambda link: _blocked(stages, link))
    because = f"{name} {_OWN[most]} {budget[most]:.0%} of its time while {waiting:,} messages wait for it"
    if _blocked(stages, blocked) >= BLOCKED:
        because += f" and {blocked['from']} is blocked {_blocked(stages, blocked):.0%} of its time"
    return because


def _instances(name: str, stages: Stages, inputs: Mapping[str, Links], peaks: Peaks) -> int | None:
    """At least one more than there are: with these, the input is full."""
    stage = stages[name]
    each = stage["rate_in"] / _own(stage) / stage["live"] if stage["live"] else 0.0
    wanted = sum(_offered(link, stages, inputs, peaks, {}) for link in inputs[name])
    if wanted >= each * MOST_INSTANCES:  # it stands still, or nearly so: its rate says nothing
        return None
    return max(int(stage["live"]) + 1, math.ceil(wanted / each))


def _offered(
    link: dict[str, Any],
    stages: Stages,
    inputs: Mapping[str, Links],
    peaks: Peaks,
    known: dict[LinkName, float],
) -> float:
    """Messages a second that would come over the link if its consumer took them all.

    A stage gives what it could work off, but no more than it is offered itself. What a source could give nobody knows
    while it is held up: the most that was seen of it.
    """
    key = LinkName(link["from"], link["outlet"], link["to"])
    if key in known:
        return known[key]
    upstream = stages[link["from"]]
    known[key] = offered = max(peaks.get(key, 0.0), link["rate"] or 0.0)
    if inputs[link["from"]] and upstream["rate_in"] and _own(upstream):
        could = upstream["rate_in"] / _own(upstream)
        given = sum(_offered(one, stages, inputs, peaks, known) for one in inputs[link["from"]])
        outputs = (link["rate"] or 0.0) / upstream["rate_in"]
        known[key] = offered = max(offered, min(could, given) * outputs)
    return offered
