"""Which stage holds up the others, why, and what to do about it.

Must not live here: how fast stages are and what they could do. That is in `capacity`. This reads the model's stages and links.

The rules, in this order:

1. A stage that cannot work (it is not running, is paused, or is held by its circuit breaker or a full disk) while messages wait
   for it is the bottleneck.
2. Where a stage is blocked on its output, all stages after it are candidates, not only the next one: those in between pass
   back-pressure on, and a bound of unacked messages spans all of them. The one that is busiest with its own work is the
   bottleneck. If none of them is busy, the bound itself is.
3. Where no stage is blocked, a stage that has no time left and a backlog is the bottleneck.
4. Otherwise the source is. But no stage is named while a link grows, or while seconds of work wait for a busy stage.

A stage is judged by the long window. It is judged by the last few intervals instead if these show that it has no time left and
its backlog takes seconds or grows: that it was idle before does not help it now.

The stage that was named last time is named again from lower thresholds on. Otherwise two stages that are near a threshold would
be named in turns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal

from zpipe.monitor.model import advice
from zpipe.monitor.model.advice import Advice, rate
from zpipe.monitor.model.capacity import Capacity, Links, Load, Loads, Stages

Kind = Literal["down", "paused", "held", "working", "limited", "retrying", "unacked", "source"]
Verdict = dict[str, Any]

BLOCKED = 0.2
BUSY = 0.5
"""If no stage after a blocked one is busier than this, the blocked one waits for its own bound."""
SATURATED = 0.9
HINDERED = 0.1
"""From this share of time on, its limit or its retries hold a busy stage up: it had free workers and messages, and was not
allowed to start."""
BACKLOG_S = 1.0
"""If so many seconds of its work wait for a stage, it does not keep up: that is more than what it is about to take."""
RECENT_BACKLOG_S = 2.0
"""The same for a stage that had time left before, since a burst is soon worked off."""
NAMED_AGAIN = 0.75
"""The stage that was named last time is named again from this part of a threshold on."""


def find_bottleneck(
    stages: Stages, links: Links, loads: Loads, last: str | None = None, programs: Collection[str] = ()
) -> Verdict | None:
    """{"stage", "kind", "why", "advice", "instances_needed", "brings"}. None if nothing flows, nothing holds anything up, or an
    instance does not publish the figures that are needed to tell. `last` is the stage that was named last time; `programs` are
    those stages that need not publish anything."""
    inputs = {name: [link for link in links if link["to"] == name] for name in stages}
    stopped = next(_stopped_stages(stages, inputs, programs), None)
    if stopped is not None or not all(_publishes_enough(stage) for stage in stages.values()):
        return stopped
    return _FlowingPipeline(stages, links, inputs, loads, last).verdict()


def _publishes_enough(stage: Mapping[str, Any]) -> bool:
    """Whether its instances publish what a verdict needs. One that says nothing of its time may be the busiest of all."""
    return None not in (stage["budget"], stage["rate_in"], stage["rate_out"])


def _verdict(stage: str, kind: Kind, why: str, advised: str | Advice) -> Verdict:
    text, needed, brings = Advice(advised) if isinstance(advised, str) else advised
    return {
        "stage": stage,
        "kind": kind,
        "why": why,
        "advice": text,
        "instances_needed": needed,
        "brings": brings,
    }


def _stopped_stages(stages: Stages, inputs: Mapping[str, Links], programs: Collection[str]) -> Iterator[Verdict]:
    """The stages that do not work at all although they should."""
    for name, into in inputs.items():
        stage, waiting = stages[name], sum(link["depth"] for link in into)
        wait = f" and {waiting:,} messages wait for it" if into else ""
        if not stage["live"]:
            if waiting and stage["state"] != "STOPPED":
                how, what = _DOWN[stage["state"]]
                unheard = _UNHEARD if name in programs and stage["state"] == "ABSENT" else ""
                yield _verdict(name, "down", f"{name} {how}{wait}", what.format(name) + unheard)
        elif stage["halted"] == "held":
            # Named before anything waits for it: it does not end by itself, and what it has in process is not in any depth.
            wait, held = wait if waiting else "", stage["held_by"] | stage["stopped_by"]
            yield _verdict(name, "held", f"{name} takes no more{wait}: {next(iter(held.values()))}", _HELD)
        elif stage["halted"] == "paused" and (waiting or not into):
            yield _verdict(name, "paused", f"{name} is paused{wait}", f"resume {name}")


class _FlowingPipeline:
    """A pipeline in which every stage can work."""

    def __init__(
        self, stages: Stages, links: Links, inputs: Mapping[str, Links], loads: Loads, last: str | None
    ) -> None:
        self._stages = stages
        self._links = links
        self._inputs = inputs
        self._last = last
        self._loads = loads
        self._loads = {name: self._current_load(name) for name in loads}

    def verdict(self) -> Verdict | None:
        blocking = [link for link in self._links if self._blocks(link)]
        candidates = (
            self._after(link["to"] for link in blocking) if blocking else list(filter(self._lags, self._stages))
        )
        slow = max(candidates, key=self._weight, default=None)
        if slow is None:
            return self._source()
        if self._loads[slow].own >= self._eased(BUSY, slow):
            return self._busy_stage(slow)
        return self._too_small_bound(blocking, candidates)

    def _eased(self, threshold: float, name: str) -> float:
        return threshold * NAMED_AGAIN if name == self._last else threshold

    def _weight(self, name: str) -> float:
        return self._loads[name].own / self._eased(1.0, name)

    def _current_load(self, name: str) -> Load:
        """Its shares are those of the last few intervals if it has no time left now but had some before."""
        load = self._loads[name]
        newly_busy = load.own < SATURATED and load.own_recent >= self._eased(SATURATED, name)
        if newly_busy and load.own_recent > load.own and (self._grows(name) or self._waits(name, RECENT_BACKLOG_S)):
            return load._replace(shares=load.recent, cores=load.cores_recent)
        return load

    # ---- which stage holds up which

    def _blocks(self, link: dict[str, Any]) -> bool:
        """Whether its producers are blocked, and not by another link alone. A source is woken when a quarter of its bound is
        free, so a full link may have room at any one moment. What counts is the long window, or that it is full now."""
        if link["full_in_s"] == 0.0:
            return True
        blocked = BLOCKED * NAMED_AGAIN if self._last else BLOCKED
        return self._loads[link["from"]].shares["blocked"] >= blocked

    def _after(self, stages: Iterable[str]) -> list[str]:
        """These stages and all that come after them, each once."""
        found: list[str] = []
        left = list(stages)
        while left:
            name = left.pop()
            if name not in found:
                found.append(name)
                left += [link["to"] for link in self._links if link["from"] == name]
        return found

    def _lags(self, name: str) -> bool:
        busy = self._loads[name].own >= self._eased(SATURATED, name)
        return busy and (self._waits(name, BACKLOG_S) or self._grows(name))

    def _waits(self, name: str, seconds: float) -> bool:
        """Whether so many seconds of its work wait for it, and more than it is about to take."""
        into, load = self._inputs[name], self._loads[name]
        could = (load.speed or 0.0) * self._stages[name]["live"] if into else 0.0
        backlog = max(seconds * max(self._stages[name]["rate_in"], could), 2.0 * (load.batch or 1))
        return bool(into) and sum(link["depth"] for link in into) >= self._eased(backlog, name)

    def _grows(self, name: str) -> bool:
        return any(_grows(link) for link in self._inputs[name])

    # ---- in words

    def _source(self) -> Verdict | None:
        stages = self._stages
        heads = [
            name
            for name, load in self._loads.items()
            if load.head and stages[name]["state"] == "RUNNING" and stages[name]["rate_out"] > 0
        ]
        head = max(heads, key=lambda name: stages[name]["rate_out"], default=None)
        others = [name for name, load in self._loads.items() if not load.head and stages[name]["live"]]
        if head is None or not others or any(map(_grows, self._links)):
            return None
        if any(self._loads[one].own_recent >= BUSY and self._waits(one, RECENT_BACKLOG_S) for one in others):
            return None
        busiest = max(others, key=lambda name: self._loads[name].own)
        share = self._loads[busiest].own
        why = f"{head} is the limit: it gives {rate(stages[head]['rate_out'])}, and all that follow keep up"
        why += f" (the busiest, {busiest}, {'barely: it ' if share >= SATURATED else ''}works {share:.0%} of the time)"
        return _verdict(head, "source", why, "only a faster source would give more")

    def _busy_stage(self, name: str) -> Verdict:
        load, stage = self._loads[name], self._stages[name]
        kind = kind_of_load(load)
        share = load.shares[kind]
        parts = {
            "working": f"{share:.0%} working",
            "limited": f"held back {share:.0%} of the time by its limit{_limit(load, stage)}",
            "retrying": f"{share:.0%} of the time it waits to try failed calls again",
        }[kind]
        if load.batch and kind == "working":
            parts += f" on batches of up to {load.batch}"
        waiting = sum(link["depth"] for link in self._inputs[name])
        blocked = self._most_blocked(name)
        if blocked is not None:
            parts += f", {blocked} blocked {self._loads[blocked].shares['blocked']:.0%} of the time"
        else:
            parts += f", {waiting:,} messages wait for it"
        label = f"{name} x{stage['live']}" if stage["live"] > 1 else name
        return _verdict(name, kind, f"{label} is the limit: {parts}", self._advice(name, kind, waiting))

    def _advice(self, name: str, kind: Kind, waiting: int) -> Advice:
        load, stage = self._loads[name], self._stages[name]
        if kind == "limited":
            return advice.for_limited(load, stage)
        if kind == "retrying":
            return advice.for_retrying()
        capacity = Capacity(self._stages, self._inputs, self._loads)
        return advice.for_working(name, load, stage["live"], waiting, capacity)

    def _most_blocked(self, name: str) -> str | None:
        """The stage that it blocks most, among the nearest before it that are blocked."""
        near, seen = [name], {name}
        while near:
            before = [link["from"] for one in near for link in self._inputs[one] if link["from"] not in seen]
            blocked = [one for one in before if self._loads[one].shares["blocked"] >= BLOCKED]
            if blocked:
                return str(max(blocked, key=lambda one: self._loads[one].shares["blocked"]))
            seen.update(before)
            near = before
        return None

    def _too_small_bound(self, blocking: Links, candidates: list[str]) -> Verdict | None:
        """A stage is blocked although none after it is busy: its bound lets too little onto the links to keep them at work."""
        link = max(blocking, key=lambda one: self._loads[one["from"]].shares["blocked"], default=None)
        if link is None or self._loads[link["from"]].shares["blocked"] < BLOCKED:
            return None
        if any(self._loads[one].own_recent >= BUSY for one in candidates):
            return None  # they are at work again, after something that held them up
        name = link["from"]
        load = self._loads[name]
        blocked = f"{name} is blocked {load.shares['blocked']:.0%} of the time"
        busiest = max(candidates, key=lambda one: self._loads[one].own)
        why = f"{blocked} by its bound of {load.unacked:,} unacked messages, and nobody after it is busy"
        why += f" (the busiest, {busiest}, works {self._loads[busiest].own:.0%} of the time)"
        return _verdict(name, "unacked", why, f"a larger `unacked` of {name}, or a larger `queue` after it")


_DOWN = {
    "ABSENT": ("is not heard of", "start {}, or see its log if it runs"),
    "SILENT": ("is silent", "it hangs, is stopped or is out of reach: see its log, or restart {}"),
    "FAILED": ("has failed", "see its log, and start {}"),
}
_UNHEARD = " (a program that publishes no snapshots is never heard of)"
_HELD = "the rest waits, and nothing is lost"


def _grows(link: dict[str, Any]) -> bool:
    """Whether its depth grows steadily."""
    return link["full_in_s"] is not None or (link["slope"] or 0.0) > 0.0


def kind_of_load(load: Load) -> Literal["working", "limited", "retrying"]:
    """What a busy stage is busy with: its limit or its retries, if these keep workers idle, otherwise its work."""
    limited, retrying = load.shares["limited"], load.shares["retrying"]
    if max(limited, retrying) < HINDERED:
        return "working"
    return "limited" if limited >= retrying else "retrying"


def _limit(load: Load, stage: dict[str, Any]) -> str:
    if stage["limit"]:
        return f" of calls at once ({stage['limit']:g} now)" + (f" and {load.rate:g}/s" if load.rate else "")
    return f" of {load.rate:g} calls a second" if load.rate else " of calls"
