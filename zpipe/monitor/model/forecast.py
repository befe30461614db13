"""When a link will be full, and when it will be empty.

Must not live here: how a line is fitted to a figure (`trend`).

A link is full as soon as one of its producers has to wait: `full_in_s` is 0 from then on. A source is woken when a quarter of its
bound is free, so it waits only now and then while its link stays full. Therefore a link also counts as full if a producer waited
lately and is not far below its bound.

The forecast rests on what a producer holds for the link, because the producer counts that by itself in one snapshot: no step of
the other end is in it. It has two bounds, one on what is unsent and one on all that is not acked. Either may be reached first. A
link with a disk buffer has that of the buffer alone.

While nothing waits on a link there is no time to full. What its producers hold is then in stages further down, whose links say
when they are full.
"""

from __future__ import annotations

import math
from typing import Any

from zpipe.config import PipelineConfig, StageConfig
from zpipe.core.policy import LinkPolicy
from zpipe.monitor.model.incarnation import LONG_WINDOW, SeenIncarnation
from zpipe.monitor.model.link import LinkName, fill, held_bound, messages_within, unsent_bound
from zpipe.monitor.model.trend import Trend

FULL = 0.5
"""A link stays full from this share of its producers' bound on: a source is woken when a quarter of it is free, and gives whole
sections, which may be as much again."""
LONGEST_S = 86400.0
"""A longer time to full or empty says only that the depth hardly changes."""


class Forecast:
    """The forecast of one link. `at`: the latest moment for which it knows what waits on the link."""

    def __init__(self, name: LinkName, config: PipelineConfig) -> None:
        self._name = name
        self._config = config
        self._producers: dict[str, _Producer] = {}
        self._depth = Trend(config.interval_s)
        self._behind_s = 0.0
        self.at = -math.inf

    def add_depth(self, at: float, depth: int, behind_s: float) -> None:
        """Takes what waited on the link at a moment of the senders' clock, which is `behind_s` behind the monitor's."""
        self.at, self._behind_s = at, behind_s
        self._depth.add(at, depth, _batch(self._config.stages[self._name.consumer], 0.0))

    def add_snapshot(self, seen: SeenIncarnation) -> None:
        """Takes a snapshot of one of its producers."""
        if seen.incarnation not in self._producers:
            self._producers[seen.incarnation] = _Producer(self._name, self._config)
        self._producers[seen.incarnation].add(seen)

    def times(self, live: list[SeenIncarnation], depth: int, now: float) -> dict[str, Any]:
        """How the link changes. The time to full is 0.0 while a producer has to wait, and None if it is unknown, or if nothing
        waits on the link (`depth` is 0)."""
        lives = {seen.incarnation for seen in live}
        self._producers = {life: one for life, one in self._producers.items() if life in lives}
        times = [one.full_in_s(now) for one in self._producers.values()]
        full = min((one for one in times if one is not None and one < LONGEST_S), default=None)
        if full and not depth:
            full = None
        falls = full is None and depth > 0 and (self._depth.slope or 0.0) < 0.0
        empty = self._depth.passes(-float(depth), now - self._behind_s) if falls else LONGEST_S
        return {
            "full_in_s": full,
            "empty_in_s": empty if empty < LONGEST_S else None,
            "slope": self._depth.slope,
        }


class _Producer:
    """One incarnation of a producer, and how far it is from the bounds at which it has to wait, in messages.

    What it *holds* for the link, sent or not, grows by what its consumers do not keep up with. This goes into the *window* first,
    which is what the consumers hold unacked and would still accept. When the window does not grow, it goes into what is unsent.
    """

    def __init__(self, name: LinkName, config: PipelineConfig) -> None:
        self._name = name
        self._upstream, self._consumer = config.stages[name.upstream], config.stages[name.consumer]
        self._interval_s = config.interval_s
        self._held, self._window = Trend(config.interval_s), Trend(config.interval_s)
        self._held_left = self._unsent_left = 0.0
        self._waited_at = -math.inf
        self._fill = 0.0
        self._behind_s = 0.0

    def add(self, seen: SeenIncarnation) -> None:
        snapshot, link = seen.snapshot, seen.link(self._name)
        if "consumers" not in link or "unsent_bytes" not in link:
            return  # It does not publish how much room it has left.
        at = seen.published_at
        self._behind_s = seen.heard_at - at
        unacked = self._upstream.unacked
        self._fill = fill(link, unacked)
        if self._fill >= FULL and (snapshot.get("budget") or {}).get("blocked"):
            self._waited_at = at
        unsent, in_flight = link.get("unsent", 0), link.get("in_flight", 0)
        size = (link.get("unsent_bytes", 0) + link.get("in_flight_bytes", 0)) / max(unsent + in_flight, 1)
        # What a source gave and the core has not taken in yet is up to a section, which may be many seconds' worth.
        given = snapshot.get("read_messages")
        held = (
            unsent + in_flight + (max(0.0, given - seen.done) * seen.outputs(self._name) if given is not None else 0.0)
        )
        window = in_flight + sum(consumer.get("credit", 0) for consumer in link.get("consumers", ()))
        outputs = seen.outputs(self._name) if seen.done else 1.0
        # Outputs are handed on by sections, whatever the batch.
        made = min(_batch(self._upstream, size) * outputs, LinkPolicy().section_messages)
        grain = max(made, _batch(self._consumer, size))
        self._held.add(at, held, grain)
        self._window.add(at, window, grain)
        self._held_left = messages_within(held_bound(link, unacked), size) - held
        self._unsent_left = messages_within(unsent_bound(link, unacked), size) + window - held

    def full_in_s(self, now: float) -> float | None:
        at = now - self._behind_s
        if self._fill >= FULL and at - self._waited_at <= LONG_WINDOW * self._interval_s:
            return 0.0
        growth = self._held.slope
        if growth is None or growth <= 0.0:
            return None
        full = self._held.passes(self._held_left, at)
        unsent_growth = growth - max(self._window.slope or 0.0, 0.0)
        if unsent_growth > 0.0:
            full = min(full, self._held.passes(self._unsent_left, at) * growth / unsent_growth)
        return full


def _batch(stage: StageConfig, size: float) -> float:
    """How many messages a stage takes at once. Several instances each take that many, and so more often."""
    if stage.batch is None:
        return 1.0
    return min(stage.batch.messages, max(stage.batch.bytes / size, 1.0) if size else math.inf) * math.sqrt(
        stage.instances
    )
