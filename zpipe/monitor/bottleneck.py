"""Which stage holds up the others, why, and how many instances of it would keep up.

May live here: reading that out of the model's stages and links.

The bottleneck is a stage whose input is full (or, where none is, whose upstream is blocked), and among these the one
that is busiest with its own work: the others only pass its back-pressure on. A stage that is not running or paused while
messages wait for it comes first. Where nobody is blocked, it is the source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from zpipe.monitor.flow import LinkName

OWN = ("working", "limited", "retrying")
"""What a stage spends time on by its own doing."""
READING = ("waiting", "working", "limited", "retrying")
"""What a head spends on its source: all but being blocked."""


class Effort(NamedTuple):
    """What a stage's instances are busy with, over the long window.

    shares  their mean time budget;  batch: messages of a full batch
    speed   messages an instance is done with in a second of its own work (a head: of not being blocked); None: unknown
    """

    head: bool
    batch: int | None
    shares: dict[str, float]
    speed: float | None

    @property
    def own(self) -> float:
        return sum(self.shares[share] for share in OWN)


Stages = Mapping[str, dict[str, Any]]
Links = list[dict[str, Any]]
Efforts = Mapping[str, Effort]

BLOCKED = 0.2
BUSY = 0.25
SATURATED = 0.9
SLACK = 0.15
"""Of an instance: rates are measured, and 3.1 times as many messages are three instances' work."""
MOST_INSTANCES = 10_000
_ADVICE = {
    "limited": "more instances do not help while what it calls takes no more: raise `limit`, or the service's capacity",
    "retrying": "more instances do not help: see its log for why the calls fail",
}


def find(stages: Stages, links: Links, efforts: Efforts) -> dict[str, Any] | None:
    """{"stage", "kind", "why", "advice", "instances_needed"}; None if nothing flows, or nothing holds anything up.

    kind: down, paused, working, limited, retrying (the stage's largest share) or source."""
    inputs: dict[str, Links] = {name: [link for link in links if link["to"] == name] for name in stages}
    for name, into in inputs.items():
        waiting = sum(link["depth"] for link in into)
        if waiting and not stages[name]["live"] and stages[name]["state"] != "STOPPED":
            how = {"ABSENT": "not running", "SILENT": "silent", "FAILED": "failed"}[stages[name]["state"]]
            return _found(name, "down", f"{name} is {how} and {waiting:,} messages wait for it", f"start {name}")
        if stages[name]["live"] and stages[name]["paused"] == stages[name]["live"] and (waiting or not into):
            why = f"{name} is paused" + (f" and {waiting:,} messages wait for it" if into else "")
            return _found(name, "paused", why, f"resume {name}")
    full = [name for name, into in inputs.items() if any(link["full_in_s"] == 0.0 for link in into)]
    held = [name for name, into in inputs.items() if any(_blocked(efforts, link) >= BLOCKED for link in into)]
    busy = [name for name, into in inputs.items() if efforts[name].own >= SATURATED and any(x["slope"] for x in into)]
    slow = max(full or held or busy, key=lambda name: efforts[name].own, default=None)
    if slow is None:
        return _source(stages, efforts)
    if efforts[slow].own < BUSY:
        return None
    return _slow(slow, stages, inputs, efforts)


def _found(stage: str, kind: str, why: str, advice: str, needed: int | None = None) -> dict[str, Any]:
    return {"stage": stage, "kind": kind, "why": why, "advice": advice, "instances_needed": needed}


def _blocked(efforts: Efforts, link: dict[str, Any]) -> float:
    return efforts[link["from"]].shares["blocked"]


def _source(stages: Stages, efforts: Efforts) -> dict[str, Any] | None:
    heads = [n for n, e in efforts.items() if e.head and stages[n]["state"] == "RUNNING" and stages[n]["rate_out"] > 0]
    head = max(heads, key=lambda name: stages[name]["rate_out"], default=None)
    others = [name for name, effort in efforts.items() if not effort.head and stages[name]["live"]]
    if head is None or not others:
        return None
    busiest = max(others, key=lambda name: efforts[name].own)
    share = efforts[busiest].own
    why = f"{head} is the limit: it gives {_rate(stages[head]['rate_out'])}, and all that follow keep up"
    why += f" (the busiest, {busiest}, works {share:.0%} of the time)"
    return _found(head, "source", why, "only a faster source would give more")


def _slow(name: str, stages: Stages, inputs: Mapping[str, Links], efforts: Efforts) -> dict[str, Any]:
    effort, stage = efforts[name], stages[name]
    kind = max(OWN, key=lambda share: effort.shares[share])
    share = effort.shares[kind]
    parts = {
        "working": f"{share:.0%} working",
        "limited": f"held back {share:.0%} of the time by its limit of calls at once",
        "retrying": f"{share:.0%} of the time it waits to try failed calls again",
    }[kind]
    if stage["limit"] and kind == "limited":
        parts += f" ({stage['limit']:g} now)"
    if effort.batch and kind == "working":
        parts += f" on batches of up to {effort.batch}"
    blocked = max(inputs[name], key=lambda link: _blocked(efforts, link))
    if _blocked(efforts, blocked) >= BLOCKED:
        parts += f", {blocked['from']} blocked {_blocked(efforts, blocked):.0%} of the time"
    else:
        parts += f", {sum(link['depth'] for link in inputs[name]):,} messages wait for it"
    needed, match = _instances(name, stages, inputs, efforts) if kind == "working" else (None, "")
    advice = _ADVICE.get(kind, "a faster plugin would help, or more instances")
    if needed is not None:
        advice = f"about {needed} instances would keep up with {match}"
    label = f"{name} x{stage['live']}" if stage["live"] > 1 else name
    return _found(name, kind, f"{label} is the limit: {parts}", advice, needed)


def _rate(number: float) -> str:
    return f"{number:.0f}/s" if number >= 10 else f"{number:.1f}/s"


# How many instances


def _instances(name: str, stages: Stages, inputs: Mapping[str, Links], efforts: Efforts) -> tuple[int | None, str]:
    """How many instances would take what comes, or what the stages after it take, and whose rate that is. At least one
    more than there are: with these, the input is full."""
    stage, speed = stages[name], efforts[name].speed
    offered = sum(_offered(link, stages, inputs, efforts, {}) for link in inputs[name])
    taken, by = _taken(name, stages, inputs, efforts)
    wanted = min(offered, taken)
    if not speed or wanted >= speed * MOST_INSTANCES:  # it stands still, or nearly so: its rate says nothing
        return None, ""
    most = max(inputs[name], key=lambda link: _offered(link, stages, inputs, efforts, {}))
    return max(int(stage["live"]) + 1, math.ceil(wanted / speed - SLACK)), by if taken < offered else most["from"]


def _offered(
    link: dict[str, Any], stages: Stages, inputs: Mapping[str, Links], efforts: Efforts, known: dict[LinkName, float]
) -> float:
    """Messages a second that would come over the link if its consumer took them all: what its upstream could do, but no
    more than that is offered itself."""
    key = LinkName(link["from"], link["outlet"], link["to"])
    if key not in known:
        name = link["from"]
        upstream = stages[name]
        speed = efforts[name].speed
        could = speed * upstream["live"] if speed is not None else upstream["rate_out"]
        known[key] = 0.0  # a circle cannot be, but what is not checked here must not hang
        if inputs[name]:
            could = min(could, sum(_offered(one, stages, inputs, efforts, known) for one in inputs[name]))
        known[key] = max(link["rate"] or 0.0, could * float(link["outputs"]))
    return known[key]


def _taken(name: str, stages: Stages, inputs: Mapping[str, Links], efforts: Efforts) -> tuple[float, str]:
    """Messages of this stage a second whose outputs the stages after it would take, and which of them takes the least."""
    least, by = math.inf, ""
    for consumer, into in inputs.items():
        for link in into:
            outputs = float(link["outputs"]) if link["from"] == name else 0.0
            speed = efforts[consumer].speed
            # A small batch costs more a message than a full one: what such a stage could take does not show yet.
            if not outputs or speed is None or efforts[consumer].batch:
                continue
            others = sum(x["rate"] or 0.0 for x in into if x is not link)
            could = max(speed * stages[consumer]["live"] - others, link["rate"] or 0.0)
            further, last = _taken(consumer, stages, inputs, efforts)
            could, limit = (could, consumer) if could <= further else (further, last)
            if could / outputs < least:
                least, by = could / outputs, limit
    return least, by
