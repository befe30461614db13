"""What would help a stage that holds up the others, and what rate it would bring. Must not live here: which stage that is
(`bottleneck`), and what stages are offered (`capacity`).

What helps depends on what its calls spend their time on. Calls that wait, for a service or a disk, share a process: more workers
help, and cost next to nothing. Calls that compute need a core each, and Python's threads share one: more instances help, while
the machine has cores left. The CPU time of the process beside the time of its calls tells these apart; where an instance does
not publish it, or it is in between, the advice is instances, which help either way.

A rate is said only if it follows from figures: workers and instances bring as much each as those that are there do.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from zpipe.monitor.model.capacity import Capacity, Load

COMPUTES = 0.6
"""Calls compute if they need CPU for at least this share of their time."""
WAITS = 0.4
"""They wait if they need CPU for at most this share."""
ONE_CORE = 0.8
"""Threads that together need so much of a core compute, though each seems to wait: one at a time runs in the interpreter."""
NO_CORES_LEFT = 0.3
"""If the threads of an instance wait for a core for this share of the time in which they need one, the machine has none left."""

MOST_ADVISED = 64
"""More instances or workers than this are nothing to advise: a source of numbers offers more than a thousand sinks could take."""

Nature = Literal["computes", "waits"]


class Advice(NamedTuple):
    """needed  instances that would keep up; None: more would not help, or nobody can say
    brings  messages a second that the stage would do; None: nobody can say
    """

    text: str
    needed: int | None = None
    brings: float | None = None


def nature_of(load: Load) -> Nature | None:
    """Whether its calls compute or wait; None if that is not clear."""
    busy = load.shares["working"] * load.workers
    if load.cores is None or not busy:
        return None
    share = load.cores / busy
    if share >= COMPUTES or (load.threads and load.cores >= ONE_CORE):
        return "computes"
    return "waits" if share <= WAITS else None


def for_working(name: str, load: Load, live: int, waiting: int, capacity: Capacity) -> Advice:
    """For a stage whose plugin has no time left."""
    needed, by = capacity.needed(name)
    if capacity.is_new(name):
        return Advice("it has just started: how many instances would keep up shows soon", needed)
    if needed is not None and needed <= live:
        keep = "instances keep" if needed > 1 else "instance keeps"
        return Advice(f"{needed} {keep} up; {waiting:,} messages are still waiting", needed)
    if not load.speed:
        return Advice("a faster plugin would help, or more instances")
    nature, wanted = nature_of(load), capacity.wanted(name)[0] if needed is not None else math.inf
    if nature == "waits":
        return _more_workers(load, live, needed, wanted, by)
    if nature == "computes" and (load.starved or 0.0) >= NO_CORES_LEFT:
        share = f"{load.starved:.0%}"
        return Advice(
            f"its machine has no CPU left, for a core it waits {share} of the time: a faster plugin would help, or instances"
            " on another machine",
            needed,
        )
    more = needed - live if needed is not None else 1
    if more > MOST_ADVISED:
        words = f"each instance more brings about {rate(load.speed)}: it would take {more:,} to keep up with {by}"
        return Advice(f"{words}, so slow {by} down, or make the plugin faster", needed)
    brings = min(wanted, (live + more) * load.speed)
    words = f"{_count(more, 'instance')} more {_bring(more)} about {rate(brings)}{_match(brings, wanted, by)}"
    return Advice(f"{words}, a faster plugin likewise" if nature == "computes" else words, needed, brings)


def _more_workers(load: Load, live: int, needed: int | None, wanted: float, by: str) -> Advice:
    """For a stage whose calls wait: more of them at once help, until a core is used up."""
    assert load.speed is not None and load.cores is not None
    of_one = load.speed / load.workers
    used = load.cores * (1.0 - (load.starved or 0.0))
    most = load.speed * load.shares["working"] * ONE_CORE / used if load.threads and used else math.inf
    goal = min(wanted / live, most) if math.isfinite(wanted) else 0.0
    count = max(math.ceil(goal / of_one - 0.15), load.workers + 1)
    brings = min(wanted, live * min(count * of_one, most))
    more = count - load.workers
    if more > MOST_ADVISED:
        words = f"each worker more brings about {rate(live * of_one)}: it would take {more:,} to keep up with {by}"
        return Advice(f"{words}, so slow {by} down, or have a call take many messages (`batch`)", needed)
    words = f"{_count(more, 'worker')} more{' in each instance' if live > 1 else ''} ({_setting(load, count)})"
    words += f" {_bring(more)} about {rate(brings)}{_match(brings, wanted, by)}"
    share = 1.0 - load.cores / (load.shares["working"] * load.workers)
    return Advice(f"{words}, if what it calls takes that: its calls wait {share:.0%} of their time", needed, brings)


def _setting(load: Load, count: int) -> str:
    """The keys that set how many calls are under way at once."""
    if load.most_calls is None or load.most_calls >= count:
        return f"`workers.count = {count}`"
    return f"`limit.max = {count}`" if not load.count_given else f"`workers.count = {count}` and `limit.max = {count}`"


def for_limited(load: Load, stage: dict[str, Any]) -> Advice:
    """For a stage whose limit keeps workers idle."""
    live, working = stage["live"], load.shares["working"]
    done = (load.speed or 0.0) * load.own * live
    if load.rate is not None:
        could = f"; without it its workers could do about {rate(done / working)}" if done and working > 0.02 else ""
        return Advice(f"raise `limit.rate`, if what it calls takes more{could}")
    if load.most_calls is not None and stage["limit"] and stage["limit"] >= load.most_calls * live:
        each = f": each call more at once brings about {rate(done / stage['limit'])}" if done else ""
        return Advice(f"raise `limit.max`, which is reached and keeps workers idle{each}")
    return Advice(
        "more instances do not help while what it calls takes no more: raise `limit`, or the service's capacity"
    )


def for_retrying() -> Advice:
    return Advice("more instances do not help: see its log for why the calls fail")


def rate(number: float) -> str:
    return f"{number:.0f}/s" if number >= 10 else f"{number:.1f}/s"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _bring(number: int) -> str:
    return "brings" if number == 1 else "bring"


def _match(brings: float, wanted: float, by: str) -> str:
    """Whom the stage keeps up with then."""
    return f", to keep up with {by}" if by and brings >= 0.95 * wanted else ""
