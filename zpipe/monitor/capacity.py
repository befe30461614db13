"""How many instances of a stage would keep up with what comes, or with what the stages after it take.

May live here: what stages could do, from how fast they are at what they do. No verdicts and no sentences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from zpipe.monitor.effort import Effort
from zpipe.monitor.flow import LinkName

Stages = Mapping[str, dict[str, Any]]
Links = list[dict[str, Any]]
Efforts = Mapping[str, Effort]

SLACK = 0.15
"""Of an instance: rates are measured, and 3.1 times as many messages are three instances' work."""
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
        """How many instances of a stage whose input is full would keep up, and with whose rate; (None, "") where nobody can say.
        At least one more than there are: with these, the input is full."""
        speed = self._efforts[name].speed
        offered, by = self._comes(name)
        taken, last = self._taken(name)
        wanted, by = (taken, last) if taken < offered else (offered, by)
        if not speed or wanted >= speed * MOST_INSTANCES:  # it stands still, or nearly so: its rate says nothing
            return None, ""
        return max(int(self._stages[name]["live"]) + 1, math.ceil(wanted / speed - SLACK)), by

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
