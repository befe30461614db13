"""How many instances of a stage would keep up with what comes, or with what the stages after it take.

May live here: what stages could do, from how fast they are at what they do. No verdicts and no sentences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from zpipe.monitor.model.flow import LinkName
from zpipe.monitor.model.load import Load

Stages = Mapping[str, dict[str, Any]]
Links = list[dict[str, Any]]
Efforts = Mapping[str, Load]

SLACK = 0.15
"""Of an instance: rates are measured, and 3.1 times as many messages are three instances' work."""
CLOSE = 0.05
"""By so much of what a stage can do its rates are off at times: what is nearer to that is no proof of anything."""
SETTLED = 6.0
"""So many intervals after an instance has come, what is sent to it is not only what had waited for it, or comes again."""
MOST_INSTANCES = 10_000
TRUSTED = 0.1
"""A stage that is busy for less than this share of its time does not tell what it could do: parcels of few messages cost more a
message than full ones, and what it was seen to do would be multiplied by more than ten."""


class Capacity:
    """`stages` and `links` are the model's; `inputs`: the links into each stage."""

    def __init__(self, stages: Stages, inputs: Mapping[str, Links], efforts: Efforts) -> None:
        self._stages = stages
        self._inputs = inputs
        self._efforts = efforts
        self._offers: dict[LinkName, tuple[float, str]] = {}

    def needed(self, name: str) -> tuple[int | None, str]:
        """How many instances of a stage that has no time left would keep up, and with whose rate; (None, "") if nobody can say.
        As many as are live where these keep up and have only a backlog left; else more."""
        effort, live = self._efforts[name], int(self._stages[name]["live"])
        offered, by = self._comes(name)
        taken, last = self._taken(name)
        wanted, by = (taken, last) if taken < offered else (offered, by)
        # Of one that stands still, or nearly so, its rate says nothing.
        if not effort.speed or wanted >= effort.speed * MOST_INSTANCES or self.is_new(name) or self.is_new(by):
            return None, ""
        needed = math.ceil(wanted / effort.speed - SLACK)
        if needed > live:
            return needed, by
        if self._catches_up(name):
            return live, by
        return (live + 1, by) if wanted > (1.0 + CLOSE) * live * effort.speed else (None, "")

    def is_new(self, name: str) -> bool:
        """One of its instances has come while others were looked at. Where all are new to the monitor, what they say must do."""
        known_for = self._efforts[name].known_for
        return known_for < SETTLED and known_for < max(one.known_for for one in self._efforts.values()) - 2.0

    def _catches_up(self, name: str) -> bool:
        """Less and less waits for it, and not because a producer waits itself."""
        into = self._inputs[name]
        slopes = [link["slope"] or 0.0 for link in into if link["full_in_s"] is None]
        return len(slopes) == len(into) and max(slopes) <= 0.0 and min(slopes) < 0.0

    def _comes(self, name: str) -> tuple[float, str]:
        """What all links into a stage offer it, and the stage that sets the rate of the one that offers most."""
        offers = [self._offered(link) for link in self._inputs[name]]
        return sum(rate for rate, _ in offers), max(offers)[1]

    def _offered(self, link: dict[str, Any]) -> tuple[float, str]:
        """Messages a second that would come over the link if its consumer took them all, and the stage that sets this rate: what
        its upstream could do, but no more than that is offered itself. Infinite where nobody can say."""
        key = LinkName(link["from"], link["outlet"], link["to"])
        if key not in self._offers:
            name = link["from"]
            self._offers[key] = 0.0, name  # a circle cannot be, but what is not checked here must not hang
            speed, live = self._efforts[name].speed, self._stages[name]["live"]
            could, by = (math.inf if speed is None else speed * live) if live else 0.0, name
            if self._inputs[name]:
                could, by = min((could, by), self._comes(name))
            outputs = float(link["outputs"])
            self._offers[key] = max(link["rate"] or 0.0, could * outputs if outputs else 0.0), by
        return self._offers[key]

    def _taken(self, name: str) -> tuple[float, str]:
        """Messages of this stage a second whose outputs the stages after it would take, and which of them takes the least."""
        least, by = math.inf, ""
        for consumer, into in self._inputs.items():
            for link in into:
                outputs = float(link["outputs"]) if link["from"] == name else 0.0
                if not outputs:
                    continue
                (could, limit), (further, last) = self._could(consumer, into, link), self._taken(consumer)
                could, limit = (could, limit) if could <= further else (further, last)
                if could / outputs < least:
                    least, by = could / outputs, limit
        return least, by

    def _could(self, consumer: str, into: Links, link: dict[str, Any]) -> tuple[float, str]:
        """Messages a second that a stage could take over one of its links, beside what the others bring."""
        effort = self._efforts[consumer]
        # A small batch costs more a message than a full one: what such a stage could take does not show yet.
        if effort.speed is None or effort.batch or effort.own < TRUSTED:
            return math.inf, ""
        others = sum(x["rate"] or 0.0 for x in into if x is not link)
        return max(effort.speed * self._stages[consumer]["live"] - others, link["rate"] or 0.0), consumer
