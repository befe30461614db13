"""What the instances of a stage spend time on, how fast they are, and how many would keep up. Must not live here: verdicts
(`bottleneck`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from zpipe.config import StageConfig
from zpipe.core.processing.time_budget import SHARES
from zpipe.monitor.model.incarnation import RECENT, SeenIncarnation
from zpipe.monitor.model.link import LinkName

OWN_SHARES = ("working", "limited", "retrying")
"""What a stage spends time on by its own doing."""


class Load(NamedTuple):
    """The mean over the live instances of one stage, over the long window.

    head       it has no input: it reads a source
    batch      messages of a full batch; None: it takes no batches
    shares     their time budget
    recent     the time budget of the last few intervals
    speed      messages that one instance finishes in a second of its own work (a head: in a second in which it is not blocked);
               None: unknown
    known_for  intervals for which all its instances are known
    unacked    messages that one instance may have on a link without an ack
    rate       calls a second that the limit of one instance allows; None: any number
    workers    calls that one instance may make at once;  threads: these are in its own process
    count_given  whether the config says how many, so that it does not follow from the limit
    most_calls   calls at once that the config's limit allows one instance at most; None: it has no such limit
    cores      of CPU that one instance needs, whether it gets them or not; None: not published;  cores_recent: in the last few
               intervals
    starved    the share of these that it does not get, since others have them; None: not published
    """

    head: bool
    batch: int | None
    shares: dict[str, float]
    recent: dict[str, float]
    speed: float | None
    known_for: float
    unacked: int
    rate: float | None
    workers: int = 1
    threads: bool = True
    count_given: bool = True
    most_calls: int | None = None
    cores: float | None = None
    cores_recent: float | None = None
    starved: float | None = None

    @property
    def own(self) -> float:
        """The share of time that it spends by its own doing."""
        return sum(self.shares[share] for share in OWN_SHARES)

    @property
    def own_recent(self) -> float:
        return sum(self.recent[share] for share in OWN_SHARES)


def load_of(stage: StageConfig, live: Sequence[SeenIncarnation]) -> Load:
    speeds = [seen.speed(OWN_SHARES) if stage.inputs else seen.reading_speed for seen in live]
    known = [speed for speed in speeds if speed is not None]
    rates = [(seen.snapshot.get("limit") or {}).get("rate") for seen in live]
    return Load(
        head=not stage.inputs,
        batch=stage.batch.messages if stage.batch else None,
        shares=mean_shares([seen.shares() for seen in live]),
        recent=mean_shares([seen.shares(RECENT) for seen in live]),
        speed=sum(known) / len(known) if known else None,
        known_for=min((seen.known_for for seen in live), default=0.0),
        unacked=stage.unacked.messages,
        rate=rates[0] if rates else None,
        workers=stage.workers.count,
        threads=stage.workers.kind == "thread",
        count_given=stage.workers.count_given,
        most_calls=stage.limit.max if stage.limit is not None else None,
        cores=(cpu := _cpu_of([seen.cpu() for seen in live]))[0],
        cores_recent=_cpu_of([seen.cpu(RECENT) for seen in live])[0],
        starved=cpu[1],
    )


def _cpu_of(times: list[tuple[float, float] | None]) -> tuple[float | None, float | None]:
    """Cores needed, and the share of them that others have, by what each instance used and waited for. None: unknown."""
    known = [one for one in times if one is not None]
    if not known or len(known) != len(times):
        return None, None
    used, waited = (sum(part) / len(known) for part in zip(*known, strict=True))
    return used + waited, waited / (used + waited) if used + waited else 0.0


def mean_shares(budgets: list[dict[str, float]]) -> dict[str, float]:
    return {share: sum(one.get(share, 0.0) for one in budgets) / max(len(budgets), 1) for share in SHARES}


# ---- how many instances would keep up

Stages = Mapping[str, dict[str, Any]]
Links = list[dict[str, Any]]
Loads = Mapping[str, Load]

SLACK = 0.15
"""So much of an instance is not rounded up: rates are measured, so 3.1 times what one can do is the work of three, not four."""
RATE_ERROR = 0.05
"""Measured rates are off by this share at times, so a smaller difference proves nothing."""
SETTLED_INTERVALS = 6.0
"""For so long after an instance has started, much of what is sent to it had waited for it or comes again."""
MOST_INSTANCES = 10_000
LEAST_BUSY = 0.1
"""A stage that is busy for a smaller share of its time does not show what it could do. Small parcels
cost more for each message than full ones, and what it was seen to do would be multiplied by more than ten."""


class Capacity:
    """`stages` are those of the model; `inputs`: the links into each stage."""

    def __init__(self, stages: Stages, inputs: Mapping[str, Links], loads: Loads) -> None:
        self._stages = stages
        self._inputs = inputs
        self._loads = loads
        self._offers: dict[LinkName, tuple[float, str]] = {}

    def needed(self, name: str) -> tuple[int | None, str]:
        """How many instances of a stage that has no time left would keep up, and which stage sets the rate they would keep
        up with; (None, "") if that is not known. The live ones are enough if they keep up and have only a backlog left."""
        load, live = self._loads[name], int(self._stages[name]["live"])
        wanted, by = self.wanted(name)
        # The rate of a stage that stands still, or nearly so, says nothing.
        if not load.speed or wanted >= load.speed * MOST_INSTANCES or self.is_new(name) or self.is_new(by):
            return None, ""
        needed = math.ceil(wanted / load.speed - SLACK)
        if needed > live:
            return needed, by
        if self._catches_up(name):
            return live, by
        return (live + 1, by) if wanted > (1.0 + RATE_ERROR) * live * load.speed else (None, "")

    def wanted(self, name: str) -> tuple[float, str]:
        """The rate that a stage would have to do so that it holds up nobody, and which stage sets it: what it is offered, or what
        those after it take if that is less."""
        offered, by = self._offered_to(name)
        takes, last = self._takes(name)
        return (takes, last) if takes < offered else (offered, by)

    def is_new(self, name: str) -> bool:
        """Whether an instance of it started while others were already watched. Where all instances are new to the monitor,
        their figures have to be enough."""
        known_for = self._loads[name].known_for
        return known_for < SETTLED_INTERVALS and known_for < max(one.known_for for one in self._loads.values()) - 2.0

    def _catches_up(self, name: str) -> bool:
        """Whether less and less waits for it, and not because its producers are blocked."""
        into = self._inputs[name]
        slopes = [link["slope"] or 0.0 for link in into if link["full_in_s"] is None]
        return len(slopes) == len(into) and max(slopes) <= 0.0 and min(slopes) < 0.0

    def _offered_to(self, name: str) -> tuple[float, str]:
        """Messages a second that all links into a stage offer it, and the stage that sets the rate of the largest offer."""
        offers = [self._offered(link) for link in self._inputs[name]]
        return sum(rate for rate, _ in offers), max(offers)[1]

    def _offered(self, link: dict[str, Any]) -> tuple[float, str]:
        """Messages a second that would come over the link if its consumer took them all, and the stage that sets this rate: what
        its upstream could do, but no more than is offered to that upstream itself. Infinite where it is not known."""
        key = LinkName(link["from"], link["outlet"], link["to"])
        if key not in self._offers:
            name = link["from"]
            self._offers[key] = 0.0, name  # There can be no circle, but this must not hang if there is one.
            speed, live = self._loads[name].speed, self._stages[name]["live"]
            could, by = (math.inf if speed is None else speed * live) if live else 0.0, name
            if self._inputs[name]:
                could, by = min((could, by), self._offered_to(name))
            outputs = float(link["outputs"])
            self._offers[key] = max(link["rate"] or 0.0, could * outputs if outputs else 0.0), by
        return self._offers[key]

    def _takes(self, name: str) -> tuple[float, str]:
        """Messages of this stage a second whose outputs the stages after it would take, and which of them takes the least."""
        least, by = math.inf, ""
        for consumer, into in self._inputs.items():
            for link in into:
                outputs = float(link["outputs"]) if link["from"] == name else 0.0
                if not outputs:
                    continue
                (could, limit), (further, last) = self._could_take(consumer, into, link), self._takes(consumer)
                could, limit = (could, limit) if could <= further else (further, last)
                if could / outputs < least:
                    least, by = could / outputs, limit
        return least, by

    def _could_take(self, consumer: str, into: Links, link: dict[str, Any]) -> tuple[float, str]:
        """Messages a second that a stage could take over one of its links, beside what its other links bring."""
        load = self._loads[consumer]
        # A small batch costs more for each message than a full one, so it does not show yet what such a stage could take.
        if load.speed is None or load.batch or load.own < LEAST_BUSY:
            return math.inf, ""
        others = sum(x["rate"] or 0.0 for x in into if x is not link)
        return max(load.speed * self._stages[consumer]["live"] - others, link["rate"] or 0.0), consumer
