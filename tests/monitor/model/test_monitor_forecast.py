"""When links will be full, and when empty: what the monitor says each interval, against what happens to real cores on a
virtual clock.

A link is full at the moment from which its producers have to wait: by the time that the first snapshot of one with a `blocked`
share says it spent so. It is empty when less waits than its consumers take in a moment.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from monitor_samples import CHAIN, UNSENT_BOUND, budget, config, consumer, snapshot
from monitor_samples import link as row_of
from watched import ENDLESS, Watched, link

from zpipe.core.policy import KIB, MIB, BatchPolicy, Bound, LinkPolicy, StagePolicy
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.testing import Faults, Spec

CLOSE = 2.0
"""Intervals before the end in which nothing is asked: a snapshot takes one to come."""

SETTLED = 4


def policy(
    unacked: int = 20_000, interval_s: float = 1.0, bytes_: int = 128 * MIB, batch: BatchPolicy | None = None
) -> StagePolicy:
    return StagePolicy(unacked=Bound(unacked, bytes_), interval_s=interval_s, batch=batch)


def pair(
    gives: float,
    takes: float,
    *,
    unacked: int = 20_000,
    interval_s: float = 1.0,
    section: int = 1,
    heads: int = 1,
    sinks: int = 1,
    batch: int = 0,
    size: int = 0,
    bytes_: int = 128 * MIB,
) -> list[Spec]:
    """A source that gives so many messages a second, and a slower sink."""
    batches = BatchPolicy(batch, 64 * MIB, 1.0) if batch else None
    return [
        Spec(
            "read",
            messages=ENDLESS,
            record_s=heads / gives,
            section=section,
            instances=heads,
            size=lambda id: size,
            policy=policy(unacked, interval_s, bytes_),
        ),
        Spec(
            "sink",
            inputs=(("read", ""),),
            instances=sinks,
            seconds=lambda instance: sinks / takes,
            policy=policy(interval_s=interval_s, batch=batches),
        ),
    ]


def chain(
    gives: float,
    outputs: int,
    takes: float,
    *,
    unacked: int = 20_000,
    interval_s: float = 1.0,
    maps: int = 1,
    sinks: int = 1,
    batch: int = 0,
    batch_above: int = 0,
) -> list[Spec]:
    """A stage in the middle that makes so many outputs of a message, and a sink that does not keep up with it."""
    batches, above = (BatchPolicy(n, 64 * MIB, 1.0) if n else None for n in (batch, batch_above))
    return [
        Spec("read", messages=ENDLESS, record_s=1 / gives, policy=policy(interval_s=interval_s)),
        Spec(
            "map",
            inputs=(("read", ""),),
            instances=maps,
            seconds=lambda instance: 0.2 * maps / gives,
            plan=lambda id, attempt: [f"{id}.{n}" for n in range(outputs)],
            policy=policy(unacked, interval_s, batch=above),
        ),
        Spec(
            "sink",
            inputs=(("map", ""),),
            instances=sinks,
            seconds=lambda instance: sinks / takes,
            policy=policy(interval_s=interval_s, batch=batches),
        ),
    ]


@dataclass
class Shown:
    """What was said at a time, and what was true of the time left."""

    at: float
    said: float | None
    left: float


def judge(shown: list[Shown], interval_s: float, silent: float = 0.25, close_s: float = 0.0) -> None:
    """Every figure is within a quarter, and each is about an interval less than the last. At most the share `silent` of them is
    missing after the first intervals, in which nobody can say."""
    asked = [one for one in shown if one.left > max(CLOSE * interval_s, close_s)]
    assert len(asked) > SETTLED, shown
    wrong = [one for one in asked if one.said is not None and abs(one.said - one.left) > 0.25 * one.left]
    assert not wrong, wrong
    settled = asked[SETTLED:]
    assert sum(one.said is None for one in settled) <= silent * len(settled), [(x.at, x.said) for x in asked]
    for last, one in pairwise(asked):
        if last.said is not None and one.said is not None:
            assert abs(last.said - one.said - interval_s) <= 0.12 * last.said + interval_s / 2, (last, one)


def fill(watched: Watched, upstream: str, consumer: str, interval_s: float) -> list[Shown]:
    """What is said each interval until a producer waits."""
    waits_at: list[float] = []
    hear = watched.sim.watcher
    began = watched.sim.now
    assert hear is not None

    def listen(snapshot: dict[str, Any], now: float) -> None:
        hear(snapshot, now)
        waited = snapshot["budget"]["blocked"] * interval_s
        if snapshot["stage"] == upstream and waited and now > began:
            waits_at.append(now - waited)

    watched.sim.watcher = listen
    said: list[tuple[float, float | None]] = []
    while not waits_at:
        row = link(watched.run(interval_s), upstream, consumer)
        assert watched.sim.now - began < 1000, row
        said.append((watched.sim.now, row["full_in_s"]))
    assert link(watched.run(interval_s), upstream, consumer)["full_in_s"] == 0.0
    assert watched.sim.problems == []
    return [Shown(at, one, waits_at[0] - at) for at, one in said]


FROM_A_SOURCE = {
    "medium": pair(200, 100),
    "slow": pair(60, 50),
    "fast": pair(300, 50),
    "few a second": pair(5, 3, unacked=200),
    "a bound of 100": pair(20, 15, unacked=100),
    "slow, into a bound of 400": pair(100, 95, unacked=400, section=25),
    "sections larger than what comes in an interval": pair(30, 20, unacked=2000, section=256),
    "sections": pair(400, 250, section=256),
    "thousands a second": pair(2000, 1850, section=256),
    "20,000 a second, reported often": pair(20_000, 19_300, section=64, interval_s=0.1),
    "reported seldom": pair(30, 20, interval_s=5.0),
    "three sources": pair(300, 150, heads=3),
    "three sinks": pair(200, 120, sinks=3),
    "three of each": pair(300, 180, heads=3, sinks=3, section=64),
    "batches": pair(100, 60, batch=50),
    "batches as large as sections": pair(100, 70, batch=200, section=256),
    "bytes not sent": pair(20, 12, size=10 * KIB),
    "bytes not acked": pair(20, 12, size=10 * KIB, bytes_=900 * KIB),
}


@pytest.mark.parametrize("name", FROM_A_SOURCE)
def test_time_to_full_of_a_link_from_a_source(name: str) -> None:
    specs = FROM_A_SOURCE[name]
    interval_s = specs[0].policy.interval_s
    batch, growth = specs[1].policy.batch, 1 / specs[0].record_s - 1 / specs[1].seconds(1)
    # A bound is come to in whole batches: how many of its last messages are there is a matter of chance.
    # What a batch takes at once, and what is acked by one statement, is a step in what is held.
    step = max(batch.messages if batch is not None else 0, LinkPolicy().ack_delay_s / specs[1].seconds(1))
    close_s = step / growth
    # Where more is acked by one statement than comes to be held in an interval, mostly nothing can be said.
    silent = 0.4 if step < growth * interval_s or batch is not None else 0.6
    judge(fill(Watched(specs), "read", "sink", interval_s), interval_s, silent, close_s)


FROM_THE_MIDDLE = {
    "ten outputs": chain(20, 10, 150),
    "a hundred outputs, slow": chain(20, 100, 1900),
    "three of each": chain(100, 3, 150, maps=3, sinks=3),
    "reported often": chain(200, 2, 250, interval_s=0.2),
    "few a second": chain(5, 2, 8, unacked=200),
    "a bound of unacked messages": chain(20, 2, 20, unacked=300),
    "into batches": chain(50, 2, 70, batch=100),
    "out of batches": chain(50, 2, 60, batch_above=50),
}


@pytest.mark.parametrize("name", FROM_THE_MIDDLE)
def test_time_to_full_of_a_link_from_a_stage_in_the_middle(name: str) -> None:
    specs = FROM_THE_MIDDLE[name]
    interval_s = specs[0].policy.interval_s
    judge(fill(Watched(specs), "map", "sink", interval_s), interval_s, 0.4)


@pytest.mark.parametrize("seed", range(2))
def test_time_to_full_on_a_network_that_loses_frames(seed: int) -> None:
    judge(fill(Watched(pair(100, 60), seed, Faults(drop=0.02)), "read", "sink", 1.0), 1.0, 0.4)


@pytest.mark.parametrize(("gives", "for_s"), [(90, 20.0), (90, 100.0)])
def test_growth_that_begins_later_is_seen_soon(gives: float, for_s: float) -> None:
    watched = Watched(pair(gives, 100, section=16))
    watched.run(for_s)
    watched.sim.specs["read"].record_s = 1 / 160
    judge(fill(watched, "read", "sink", 1.0), 1.0, 0.35)


def stop(watched: Watched) -> None:
    watched.sim.specs["read"].record_s = 1e9


def slow_to(record_s: float) -> Callable[[Watched], None]:
    def slow(watched: Watched) -> None:
        watched.sim.specs["read"].record_s = record_s

    return slow


@dataclass
class Drain:
    """`few`: with fewer messages it counts as empty, by the cores' own counts."""

    specs: list[Spec]
    upstream: str
    fill_s: float
    slow: Callable[[Watched], None]
    few: int = 5


DRAINS = {
    "stopped": Drain(pair(200, 100), "read", 15.0, stop),
    "slowed down": Drain(pair(200, 100), "read", 15.0, slow_to(1 / 50)),
    "slowed down a little, three sinks": Drain(pair(100, 50, sinks=3), "read", 15.0, slow_to(1 / 42)),
    "three of each": Drain(pair(300, 200, heads=3, sinks=3), "read", 15.0, slow_to(3 / 150), few=8),
    "batches": Drain(pair(100, 60, batch=50), "read", 30.0, stop, few=50),
    "few a second": Drain(pair(5, 4, unacked=200), "read", 100.0, stop, few=1),
    "the middle": Drain(chain(20, 10, 100), "map", 15.0, stop),
}


@pytest.mark.parametrize("name", DRAINS)
def test_time_to_empty(name: str) -> None:
    case = DRAINS[name]
    watched = Watched(case.specs)
    watched.run(case.fill_s)
    case.slow(watched)
    sim = watched.sim
    said: list[tuple[float, float | None]] = []
    ask_at = sim.now + 1.0

    def empty() -> bool:
        return watched.waiting(case.upstream, "sink") < case.few

    while not sim.run(empty, ask_at - sim.now):
        said.append((ask_at, link(watched.model.as_json(ask_at), case.upstream, "sink")["empty_in_s"]))
        ask_at += 1.0
        assert len(said) < 1000, watched.value
    judge([Shown(at, one, sim.now - at) for at, one in said], 1.0, 0.5)


def test_a_full_link_stays_full_while_its_source_is_awake_now_and_then() -> None:
    """It is woken when a quarter of its bound is free, and reads that for some intervals in which nothing blocks it."""
    watched = Watched(pair(45, 30, unacked=400))
    fill(watched, "read", "sink", 1.0)
    said = [link(watched.run(1.0), "read", "sink")["full_in_s"] for _ in range(40)]
    assert said == [0.0] * 40
    watched.sim.specs["read"].record_s = 1 / 10
    watched.run(20.0)
    assert link(watched.value, "read", "sink")["full_in_s"] is None


def test_a_bound_of_bytes_is_reached_by_bytes() -> None:
    model = PipelineModel(config(CHAIN))
    for n in range(5):  # 64 KiB each: 32 fill what may be unsent
        rows = [row_of("map", 2 * n + 2, unsent=2 * n + 2, unsent_bytes=(2 * n + 2) * 64 * KIB)]
        model.add(snapshot("read", rows, at=100.0 + n))
    (row, _) = model.as_json(104.0)["links"]
    assert row["full_in_s"] == pytest.approx(22 / 2, abs=0.5)


def test_credit_that_is_left_makes_the_way_to_the_bound_longer() -> None:
    model = PipelineModel(config(CHAIN))
    for n in range(6):
        to = consumer(credit=1000 - 100 * n) | {"in_flight": 100 * n}
        rows = [row_of("map", 100 * n, in_flight=100 * n, consumers=[to])]
        model.add(snapshot("read", rows, at=100.0 + n))
    (row, _) = model.as_json(105.0)["links"]
    assert row["full_in_s"] == pytest.approx((UNSENT_BOUND + 500) / 100, rel=0.02)


def test_credit_that_a_slow_consumer_does_not_get_anew_is_no_growth() -> None:
    """While it is used up twice as much is sent as is not kept up with, and then what is in flight gets less: all that time the
    producer holds 25 more each second. One message waits all the time."""
    model = PipelineModel(config(CHAIN))
    full_at = (UNSENT_BOUND + 2 - 20) / 25
    said = []
    for n in range(40):
        held, in_flight = 20 + 25 * n, 19 + 25 * n if n < 7 else max(2, 194 - 25 * (n - 6))
        consumers = [consumer(credit=max(0, 300 - 50 * n))]
        rows = [row_of("map", held, in_flight=in_flight, unsent=held - in_flight, consumers=consumers)]
        model.add(snapshot("read", rows, at=100.0 + n), 100.0 + n)
        said.append(model.as_json(100.0 + n)["links"][0]["full_in_s"])
    assert said[:3] == [None] * 3
    assert [(n, one) for n, one in enumerate(said[3:], 3) if one != pytest.approx(full_at - n, rel=0.25)] == []


@pytest.mark.parametrize("waiting", [0, 1])
def test_what_is_not_acked_fills_a_link_only_if_something_waits_on_it(waiting: int) -> None:
    """Messages are acked when all that comes of them is: a slow stage further down holds them, and the bound counts them. The
    link into that stage says when it is full."""
    model = PipelineModel(config(CHAIN))
    for n in range(30):
        held = 10_000 + 100 * n
        rows = [row_of("map", held, in_flight=held - waiting, unsent=waiting)]
        model.add(snapshot("read", rows, at=100.0 + n))
    (row, _) = model.as_json(129.0)["links"]
    assert row["depth"] == waiting
    assert row["full_in_s"] == (pytest.approx(7100 / 100, rel=0.02) if waiting else None)


def test_a_link_on_which_nothing_waits_is_full_while_its_producer_has_to_wait() -> None:
    model = PipelineModel(config(CHAIN))
    for n in range(10):
        model.add(snapshot("read", [row_of("map", 20_000, in_flight=20_000)], at=100.0 + n, budget=budget(blocked=0.9)))
    (row, _) = model.as_json(109.0)["links"]
    assert (row["depth"], row["full_in_s"]) == (0, 0.0)


def test_a_link_near_its_bound_whose_producers_do_not_wait_is_not_full() -> None:
    model = PipelineModel(config(CHAIN))
    for n in range(10):
        rows = [row_of("map", 2000, unsent=1600 + n % 2)]
        model.add(snapshot("read", rows, at=100.0 + n, budget=budget(waiting=1.0)))
    (row, _) = model.as_json(109.0)["links"]
    assert row["full_in_s"] is None


def test_a_depth_at_random_has_no_time() -> None:
    chance = random.Random(1)
    model = PipelineModel(config(CHAIN))
    said = []
    for n in range(200):
        model.add(snapshot("read", [row_of("map", 2000, unsent=chance.randrange(300))], at=100.0 + n))
        (row, _) = model.as_json(100.0 + n)["links"]
        said.append((row["full_in_s"], row["empty_in_s"]))
    assert sum(one != (None, None) for one in said) <= 4


def test_a_disk_buffer_is_full_at_its_own_bound() -> None:
    model = PipelineModel(config({"read": [], "sink": ["read"]}))
    buffer = {"messages_bound": 1_000_000, "bytes_bound": 1 << 40}
    for n in range(30):
        row = row_of("sink", produced=50_000 + 1000 * n, unsent=50_000 + 1000 * n, buffer=buffer)
        model.add(snapshot("read", [row], received=50_000 + 1000 * n, at=100.0 + n), 100.0 + n)
        model.add(snapshot("sink", at=100.0 + n), 100.0 + n)
    (found,) = model.as_json(129.0)["links"]
    assert found["full_in_s"] == pytest.approx((1_000_000 - 79_000) / 1000, rel=0.05)
