"""How something that runs is measured: its messages and CPU time from one moment to another.

Does not belong here: how it is started, which is the matter of `benchmarks/peers`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from benchmarks.figures import Metrics
from benchmarks.payloads import FLAT, Payload
from benchmarks.processes import cpu_s, wait_until, with_descendants
from benchmarks.tally import Tally

START_S = 120.0
"""The first message has to arrive within this time, also behind 64 instances that start at once."""


@dataclass(frozen=True)
class Load:
    """What goes through source -> map -> sink. `rate`: messages a second; None: as fast as the next stage takes them."""

    payload: Payload = FLAT
    rate: float | None = None

    @property
    def stride(self) -> int:
        """Of a slow stream every message is noted; of a fast one about 10,000 a second."""
        return self.payload.stride if self.rate is None else max(1, int(self.rate / 10_000))


class Running(Protocol):
    """Something that moves messages. `pids` by role: "source", "map", "sink" are stages; others, such as a server, are not."""

    tally: Tally

    def pids(self) -> Mapping[str, Sequence[int]]: ...

    def check(self) -> None:
        """Raises RuntimeError, with what it printed, if it has ended."""


class Peer(Protocol):
    """Runs source -> map -> sink in its way."""

    @property
    def name(self) -> str: ...

    def running(self, load: Load) -> AbstractContextManager[Running]: ...


STAGES = ("source", "map", "sink")


def measure(running: Running, warm_up_s: float, window_s: float) -> dict[str, float]:
    """After the first message and the warm-up, for the time of the window:

    rate    messages a second at the sink
    cpu_us  CPU time a message of the stages, in microseconds; cpu_ROLE_us of each role
    p50_us, p99_us  the age of messages at the sink, where it is noted
    """
    wait_for_first(running)
    time.sleep(warm_up_s)
    pids = {role: with_descendants(of) if role in STAGES else list(of) for role, of in running.pids().items()}
    tally = running.tally
    began, count, ages = time.monotonic(), tally.count, tally.ages
    cpu = {role: sum(map(cpu_s, of_role)) for role, of_role in pids.items()}
    time.sleep(window_s)
    running.check()
    seconds, messages = time.monotonic() - began, tally.count - count
    if not messages:
        raise RuntimeError(f"no message arrived in {seconds:.1f} s")
    used = {role: (sum(map(cpu_s, of_role)) - cpu[role]) * 1e6 / messages for role, of_role in pids.items()}
    metrics = {"rate": messages / seconds, "cpu_us": sum(used.get(role, 0.0) for role in STAGES)}
    metrics |= {f"cpu_{role}_us": value for role, value in used.items()}
    return metrics | percentiles(tally.ages_s(ages, tally.ages))


def wait_for_first(running: Running) -> None:
    def arrived() -> bool:
        running.check()
        return running.tally.count > 0

    wait_until(arrived, "the first message", START_S)


def percentiles(ages_s: list[float]) -> dict[str, float]:
    ordered = sorted(ages_s)
    if not ordered:
        return {}
    return {"p50_us": percentile(ordered, 50) * 1e6, "p99_us": percentile(ordered, 99) * 1e6}


def percentile(ordered: Sequence[float], percent: int) -> float:
    """By the nearest-rank method."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def through(peer: Peer, load: Load, warm_up_s: float, window_s: float) -> Metrics:
    with peer.running(load) as running:
        return measure(running, warm_up_s, window_s)
