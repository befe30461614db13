"""What the instances of a stage spend their time on, and how fast they are at it.

May live here: sums over the instances of one stage. What follows from several stages is the bottleneck's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from zpipe.config import StageConfig
from zpipe.core.processing.time_budget import SHARES
from zpipe.monitor.model.incarnation import RECENT, SeenIncarnation

OWN = ("working", "limited", "retrying")
"""What a stage spends time on by its own doing."""


class Load(NamedTuple):
    """Over the long window.

    shares   their mean time budget;  recent: that of the last few intervals;  batch: messages of a full batch
    speed    messages an instance is done with in a second of its own work (a head: of not being blocked); None: unknown
    known_for  intervals for which all its instances are known
    unacked  messages that an instance may have on a link without an ack
    rate     calls a second that the limit of an instance allows; None: any
    """

    head: bool
    batch: int | None
    shares: dict[str, float]
    recent: dict[str, float]
    speed: float | None
    known_for: float
    unacked: int
    rate: float | None

    @property
    def own(self) -> float:
        return sum(self.shares[share] for share in OWN)

    @property
    def own_recent(self) -> float:
        return sum(self.recent[share] for share in OWN)


def effort_of(stage: StageConfig, live: Sequence[SeenIncarnation]) -> Load:
    """Of the instances that are heard now."""
    speeds = [seen.speed(OWN) if stage.inputs else seen.reading_speed for seen in live]
    known = [speed for speed in speeds if speed is not None]
    rates = [(seen.snapshot.get("limit") or {}).get("rate") for seen in live]
    return Load(
        head=not stage.inputs,
        batch=stage.batch.messages if stage.batch else None,
        shares=_mean([seen.shares() for seen in live]),
        recent=_mean([seen.shares(RECENT) for seen in live]),
        speed=sum(known) / len(known) if known else None,
        known_for=min((seen.known_for for seen in live), default=0.0),
        unacked=stage.unacked.messages,
        rate=rates[0] if rates else None,
    )


def _mean(budgets: list[dict[str, float]]) -> dict[str, float]:
    return {share: sum(one[share] for one in budgets) / max(len(budgets), 1) for share in SHARES}
