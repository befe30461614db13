"""Which stage holds up the others, why, and what to do.

May live here: reading that out of the model's stages and links. What stages could do is the capacity's.

A stage that cannot work (not running, paused, held by its guard or a full disk) while messages wait for it comes first. Then:
where a stage is blocked on its output, everything after it is looked at, not only the next: those in between pass back-pressure
on, and a bound of unacked messages spans all of them. The busiest with its own work is the bottleneck. If none is busy, the
bound itself is. Where nobody is blocked, it is a stage that has no time left and a backlog, else
the source; nobody, while a link grows or seconds of work wait for a busy stage.

A stage is judged by the long window, but by the last few intervals where these say that it has no time left and its backlog is of
seconds, or grows: that it was idle before does not help it now.

`last` is the stage that was named before: what is near a threshold would be named in turns with another otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from zpipe.monitor.model.capacity import Capacity, Efforts, Links, Stages
from zpipe.monitor.model.load import Load

Kind = Literal["down", "paused", "held", "working", "limited", "retrying", "unacked", "source"]
Verdict = dict[str, Any]

BLOCKED = 0.2
BUSY = 0.5
"""Who is blocked by a stage that is less busy than this is blocked by its own bound."""
SATURATED = 0.9
HINDERED = 0.1
"""From this share on a limit or retries are what holds a busy stage up: it had free workers and messages, and might not start."""
BACKLOG_S = 1.0
"""So many seconds of its work wait for a stage that does not keep up, and not only what it is about to take."""
RECENT_BACKLOG_S = 2.0
"""The same for one that had time left before: what comes in bursts is worked off soon."""
AGAIN = 0.75
"""What was named before is named again from this part of a threshold on."""


def find(stages: Stages, links: Links, efforts: Efforts, last: str | None = None) -> Verdict | None:
    """{"stage", "kind", "why", "advice", "instances_needed"}; None if nothing flows, nothing holds anything up, or an instance
    does not say what that could be told by."""
    inputs = {name: [link for link in links if link["to"] == name] for name in stages}
    standing = next(_standing(stages, inputs), None)
    if standing is not None or not all(_is_told(stage) for stage in stages.values()):
        return standing
    return _Flow(stages, links, inputs, efforts, last).verdict()


def _is_told(stage: Mapping[str, Any]) -> bool:
    """Whether its instances say what a verdict needs: one that says nothing of its time may be the busiest of all."""
    return None not in (stage["budget"], stage["rate_in"], stage["rate_out"])


def _found(stage: str, kind: Kind, why: str, advice: str, needed: int | None = None) -> Verdict:
    return {"stage": stage, "kind": kind, "why": why, "advice": advice, "instances_needed": needed}


def _standing(stages: Stages, inputs: Mapping[str, Links]) -> Iterator[Verdict]:
    """Stages that do not work at all, while they should."""
    for name, into in inputs.items():
        stage, waiting = stages[name], sum(link["depth"] for link in into)
        wait = f" and {waiting:,} messages wait for it" if into else ""
        if not stage["live"]:
            if waiting and stage["state"] != "STOPPED":
                how, what = _DOWN[stage["state"]]
                yield _found(name, "down", f"{name} {how}{wait}", what.format(name))
        elif not waiting and into:
            continue
        elif stage["paused"] == stage["live"]:
            yield _found(name, "paused", f"{name} is paused{wait}", f"resume {name}")
        else:
            held = stage["stopped_by"] | stage["held_by"]
            if len(held) == stage["live"]:
                why = next(iter(held.values()))
                yield _found(name, "held", f"{name} takes no more{wait}: {why}", "the rest waits, and nothing is lost")


class _Flow:
    """A pipeline in which everybody may work."""

    def __init__(
        self, stages: Stages, links: Links, inputs: Mapping[str, Links], efforts: Efforts, last: str | None
    ) -> None:
        self._stages = stages
        self._links = links
        self._inputs = inputs
        self._last = last
        self._efforts = efforts
        self._efforts = {name: self._as_of_now(name) for name in efforts}

    def verdict(self) -> Verdict | None:
        pressed = [link for link in self._links if self._presses(link)]
        behind = self._after(link["to"] for link in pressed) if pressed else list(filter(self._lags, self._stages))
        slow = max(behind, key=self._weight, default=None)
        if slow is None:
            return self._source()
        if self._efforts[slow].own >= self._eased(BUSY, slow):
            return self._slow(slow)
        return self._starved(pressed, behind)

    def _eased(self, threshold: float, name: str) -> float:
        return threshold * AGAIN if name == self._last else threshold

    def _weight(self, name: str) -> float:
        return self._efforts[name].own / self._eased(1.0, name)

    def _as_of_now(self, name: str) -> Load:
        """Its shares are those of the last intervals if it has had no time left since it is busy, and not before."""
        effort = self._efforts[name]
        late = effort.own < SATURATED and effort.own_recent >= self._eased(SATURATED, name)
        if late and effort.own_recent > effort.own and (self._grows(name) or self._waits(name, RECENT_BACKLOG_S)):
            return effort._replace(shares=effort.recent)
        return effort

    # ---- who holds up whom

    def _presses(self, link: dict[str, Any]) -> bool:
        """Its producers are blocked, and not by another link alone. A source is woken in quarters of its bound, so a full link
        may have room at any one moment: what counts is the long window, or that it is full now."""
        if link["full_in_s"] == 0.0:
            return True
        blocked = BLOCKED * AGAIN if self._last else BLOCKED
        return self._efforts[link["from"]].shares["blocked"] >= blocked

    def _after(self, stages: Iterable[str]) -> list[str]:
        """These stages, and all that come after them, each once."""
        found: list[str] = []
        left = list(stages)
        while left:
            name = left.pop()
            if name not in found:
                found.append(name)
                left += [link["to"] for link in self._links if link["from"] == name]
        return found

    def _lags(self, name: str) -> bool:
        busy = self._efforts[name].own >= self._eased(SATURATED, name)
        return busy and (self._waits(name, BACKLOG_S) or self._grows(name))

    def _waits(self, name: str, seconds: float) -> bool:
        """Whether messages for so long wait for it, and more than it is about to take."""
        into, effort = self._inputs[name], self._efforts[name]
        could = (effort.speed or 0.0) * self._stages[name]["live"] if into else 0.0
        backlog = max(seconds * max(self._stages[name]["rate_in"], could), 2.0 * (effort.batch or 1))
        return bool(into) and sum(link["depth"] for link in into) >= self._eased(backlog, name)

    def _grows(self, name: str) -> bool:
        return any(_grows(link) for link in self._inputs[name])

    # ---- in words

    def _source(self) -> Verdict | None:
        stages = self._stages
        heads = [
            name
            for name, effort in self._efforts.items()
            if effort.head and stages[name]["state"] == "RUNNING" and stages[name]["rate_out"] > 0
        ]
        head = max(heads, key=lambda name: stages[name]["rate_out"], default=None)
        others = [name for name, effort in self._efforts.items() if not effort.head and stages[name]["live"]]
        if head is None or not others or any(map(_grows, self._links)):
            return None
        if any(self._efforts[one].own_recent >= BUSY and self._waits(one, RECENT_BACKLOG_S) for one in others):
            return None
        busiest = max(others, key=lambda name: self._efforts[name].own)
        share = self._efforts[busiest].own
        why = f"{head} is the limit: it gives {_rate(stages[head]['rate_out'])}, and all that follow keep up"
        why += f" (the busiest, {busiest}, {'barely: it ' if share >= SATURATED else ''}works {share:.0%} of the time)"
        return _found(head, "source", why, "only a faster source would give more")

    def _slow(self, name: str) -> Verdict:
        effort, stage = self._efforts[name], self._stages[name]
        kind = kind_of(effort)
        share = effort.shares[kind]
        parts = {
            "working": f"{share:.0%} working",
            "limited": f"held back {share:.0%} of the time by its limit{_limit(effort, stage)}",
            "retrying": f"{share:.0%} of the time it waits to try failed calls again",
        }[kind]
        if effort.batch and kind == "working":
            parts += f" on batches of up to {effort.batch}"
        waiting = sum(link["depth"] for link in self._inputs[name])
        blocked = self._most_blocked(name)
        if blocked is not None:
            parts += f", {blocked} blocked {self._efforts[blocked].shares['blocked']:.0%} of the time"
        else:
            parts += f", {waiting:,} messages wait for it"
        needed, advice = None, _ADVICE[kind]
        if kind == "limited" and effort.rate is not None:
            advice = "raise `limit.rate`, if what it calls takes more"
        if kind == "working":
            capacity = Capacity(self._stages, self._inputs, self._efforts)
            needed, match = capacity.needed(name)
            if capacity.is_new(name):
                advice = "it has just started: how many instances would keep up shows soon"
            elif needed is not None and needed <= stage["live"]:
                keep = "instances keep" if needed > 1 else "instance keeps"
                advice = f"{needed} {keep} up; {waiting:,} messages are still waiting"
            elif needed is not None:
                advice = f"about {needed} instances would keep up with {match}"
        label = f"{name} x{stage['live']}" if stage["live"] > 1 else name
        return _found(name, kind, f"{label} is the limit: {parts}", advice, needed)

    def _most_blocked(self, name: str) -> str | None:
        """The stage that it blocks most: of those before it the nearest."""
        near, seen = [name], {name}
        while near:
            before = [link["from"] for one in near for link in self._inputs[one] if link["from"] not in seen]
            blocked = [one for one in before if self._efforts[one].shares["blocked"] >= BLOCKED]
            if blocked:
                return str(max(blocked, key=lambda one: self._efforts[one].shares["blocked"]))
            seen.update(before)
            near = before
        return None

    def _starved(self, pressed: Links, behind: list[str]) -> Verdict | None:
        """Somebody is blocked, and nobody after it is busy: there is too little on the links to keep them at work."""
        link = max(pressed, key=lambda one: self._efforts[one["from"]].shares["blocked"], default=None)
        if link is None or self._efforts[link["from"]].shares["blocked"] < BLOCKED:
            return None
        if any(self._efforts[one].own_recent >= BUSY for one in behind):
            return None  # they are at work again, after something that held them up
        name = link["from"]
        effort = self._efforts[name]
        blocked = f"{name} is blocked {effort.shares['blocked']:.0%} of the time"
        busiest = max(behind, key=lambda one: self._efforts[one].own)
        why = f"{blocked} by its bound of {effort.unacked:,} unacked messages, and nobody after it is busy"
        why += f" (the busiest, {busiest}, works {self._efforts[busiest].own:.0%} of the time)"
        return _found(name, "unacked", why, f"a larger `unacked` of {name}, or a larger `queue` after it")


_ADVICE = {
    "working": "a faster plugin would help, or more instances",
    "limited": "more instances do not help while what it calls takes no more: raise `limit`, or the service's capacity",
    "retrying": "more instances do not help: see its log for why the calls fail",
}


_DOWN = {
    "ABSENT": ("is not heard of", "start {}, or see its log if it runs"),
    "SILENT": ("is silent", "it hangs, is stopped or is out of reach: see its log, or restart {}"),
    "FAILED": ("has failed", "see its log, and start {}"),
}


def _grows(link: dict[str, Any]) -> bool:
    """Steadily."""
    return link["full_in_s"] is not None or (link["slope"] or 0.0) > 0.0


def kind_of(effort: Load) -> Literal["working", "limited", "retrying"]:
    """What a busy stage is busy with: a limit, or retries, that keep workers idle, else its work."""
    limited, retrying = effort.shares["limited"], effort.shares["retrying"]
    if max(limited, retrying) < HINDERED:
        return "working"
    return "limited" if limited >= retrying else "retrying"


def _limit(effort: Load, stage: dict[str, Any]) -> str:
    if stage["limit"]:
        return f" of calls at once ({stage['limit']:g} now)" + (f" and {effort.rate:g}/s" if effort.rate else "")
    return f" of {effort.rate:g} calls a second" if effort.rate else " of calls"


def _rate(number: float) -> str:
    return f"{number:.0f}/s" if number >= 10 else f"{number:.1f}/s"
