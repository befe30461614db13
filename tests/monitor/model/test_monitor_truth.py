"""What the monitor says of depths, against what is really held: real cores on a virtual clock."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from watched import ENDLESS, Watched, link

from zpipe.core.events import OrderGiven
from zpipe.core.policy import MIB, BatchPolicy, Bound, StagePolicy
from zpipe.testing import Faults, Spec

SMALL = StagePolicy(queue=Bound(50, MIB), unacked=Bound(400, MIB))
BATCHED = StagePolicy(queue=Bound(100, MIB), unacked=Bound(400, MIB), batch=BatchPolicy(30, MIB, 60.0))
LONG_S = 1000.0


def specs(pace: float, slow: float) -> list[Spec]:
    return [
        Spec("read", messages=ENDLESS, record_s=pace, policy=SMALL),
        Spec("map", inputs=(("read", ""),), instances=2, policy=SMALL, seconds=lambda instance: slow * instance),
        Spec("store", inputs=(("map", ""),), policy=BATCHED, seconds=lambda instance: slow / 2),
        Spec("log", inputs=(("map", ""), ("read", "")), policy=SMALL, seconds=lambda instance: slow / 4),
    ]


def check_at_rest(watched: Watched) -> None:
    """Everybody is paused, and nothing moves: the depth of each link is what its consumers have not had yet, by their own
    tallies and those of the messages' ids; the remainder is 0."""
    value = watched.value
    nodes = watched.sim.nodes
    for row in value["links"]:
        assert row["remainder"] == 0, row
        assert row["under_way"] == 0, row
        producers = [node for key, node in nodes.items() if key[0] == row["from"]]
        outlets = [o for node in producers for o in node.stage.sessions.outlets if o.consumer == row["to"]]
        waiting = Counter(_unsent_ids(outlets)) + Counter(_queued_ids(nodes, row["from"], row["to"]))
        assert row["depth"] == waiting.total(), (row, waiting)
    for name, stage in value["stages"].items():
        if name != "read":
            assert stage["depth"] == sum(row["queued"] for row in value["links"] if row["to"] == name)


def _unsent_ids(outlets: list) -> list[str]:  # type: ignore[type-arg]
    return [id for outlet in outlets for section in outlet._unsent for id in section.columns()[0]]


def _queued_ids(nodes: dict, upstream: str, consumer: str) -> list[str]:  # type: ignore[type-arg]
    return [
        id
        for key, node in nodes.items()
        if key[0] == consumer
        for piece in node.stage.inlet.queue
        if piece.delivery.producer.stage == upstream
        for id in piece.section.columns()[0][piece.start : piece.stop]
    ]


@pytest.mark.parametrize("seed", range(6))
def test_at_every_quiet_point_depth_is_what_is_held(seed: int) -> None:
    chance = random.Random(seed)
    watched = Watched(specs(chance.choice([0.01, 0.03, 0.1]), chance.choice([0.02, 0.1])), seed, Faults(drop=0.1))
    sim = watched.sim
    quiet = 0
    for _ in range(3):
        watched.run(chance.uniform(0.5, 4.0))
        for _ in range(chance.randrange(3)):
            key = chance.choice(sorted(sim.nodes))
            match chance.choice(["kill", "freeze", "pause"]):
                case "kill":
                    sim.kill(key)
                    sim.boot_later(key, 0.2)
                case "freeze":
                    sim.freeze(key, chance.uniform(0.1, 8.0))
                case "pause":
                    sim.pause(key, chance.uniform(0.1, 2.0))
            watched.run(chance.uniform(0.0, 1.0))
        watched.run(12.0)  # whoever was started again is in session, and whoever was frozen is awake
        for key in sorted(sim.nodes):
            sim.pause(key, LONG_S)
        watched.run(10.0)  # what was started is done, acks are back, and everybody has spoken
        check_at_rest(watched)
        quiet += 1
        for node in list(sim.nodes.values()):
            node.event(lambda node=node: node.tell(OrderGiven("resume")))  # type: ignore[misc]
    assert quiet == 3
    assert sim.problems == []


def test_a_consumer_that_stands_still_makes_no_depth_of_what_it_has_acked() -> None:
    """Its last word is old, and thousands have been sent and acked since."""
    watched = Watched(
        [
            Spec("read", messages=ENDLESS, record_s=0.001, policy=StagePolicy(queue=Bound(200, MIB))),
            Spec("map", inputs=(("read", ""),), instances=2, seconds=lambda instance: 0.0001),
        ]
    )
    watched.run(5.5)
    watched.sim.freeze(("map", 2), 10.0)
    for _ in range(20):
        row = link(watched.run(0.2), "read", "map")
        assert row["depth"] <= row["unsent"] + row["in_flight"], row
        assert 0 <= row["remainder"] <= 200, row


@pytest.mark.parametrize("ahead_s", [-30.0, 4.0, 30.0])
def test_the_clock_of_another_host_makes_no_depth(ahead_s: float) -> None:
    watched = Watched(
        [
            Spec("read", messages=ENDLESS, record_s=0.001, policy=StagePolicy(queue=Bound(200, MIB))),
            Spec("map", inputs=(("read", ""),), seconds=lambda instance: 0.0001),
        ]
    )
    hear = watched.sim.watcher
    assert hear is not None
    watched.sim.watcher = lambda snapshot, now: hear(
        snapshot | {"at": now + ahead_s * (snapshot["stage"] == "map")}, now
    )
    watched.run(2.5)
    for _ in range(20):
        row = link(watched.run(0.3), "read", "map")
        assert row["depth"] <= 20, row
        assert 0 <= row["remainder"] <= 100, row


def test_what_a_killed_consumer_had_queued_is_not_counted_twice() -> None:
    watched = Watched(
        [
            Spec("read", messages=ENDLESS, record_s=0.1, policy=SMALL),
            Spec("map", inputs=(("read", ""),), instances=2, policy=BATCHED),
        ]
    )
    watched.run(2.5)
    watched.sim.kill(("map", 2))
    value = watched.run(1.7)  # it has missed a turn; it counts as silent only in some seconds
    first, dead = value["stages"]["map"]["instances"]
    assert value["stages"]["map"]["silent"] == []
    assert dead["queued"] > 0
    assert link(value, "read", "map")["queued"] == first["queued"]


@pytest.mark.parametrize("seed", range(2))
def test_while_it_moves_the_depth_is_that_of_one_moment(seed: int) -> None:
    """Ends that speak at different moments, a thousand messages a second: mostly off by a message or two. A source that has come
    to its bound goes on when a quarter of that is free. So what it holds goes down and up between two snapshots, and a
    straight line through them is off by half a quarter at most."""
    chance = random.Random(seed)
    policy = StagePolicy(queue=Bound(200, MIB), unacked=Bound(1000, MIB))
    watched = Watched(
        [
            Spec("read", messages=ENDLESS, record_s=0.001, policy=policy),
            Spec("map", inputs=(("read", ""),), instances=2, policy=policy, seconds=lambda instance: 0.0025),
            Spec("store", inputs=(("map", ""),), policy=policy, seconds=lambda instance: 0.0005),
        ]
    )
    held: dict[float, int] = {}
    shown: list[tuple[float, int]] = []
    hear = watched.sim.watcher
    assert hear is not None

    def hear_and_note(snapshot: dict[str, Any], now: float) -> None:
        held[now] = watched.waiting("read", "map")
        hear(snapshot, now)
        row = link(watched.value, "read", "map")
        if now > 4.0 and row["at"] in held:
            shown.append((row["at"], row["depth"]))

    watched.sim.watcher = hear_and_note
    for _ in range(30):
        watched.run(chance.uniform(0.05, 0.4))
        node = watched.sim.nodes[chance.choice(sorted(watched.sim.nodes))]
        node.event(lambda node=node: node.tell(OrderGiven("snapshot")))  # type: ignore[misc]
    assert len(shown) > 20
    off = sorted(abs(depth - held[at]) for at, depth in shown)
    assert off[len(off) * 8 // 10] <= 3 and off[-1] <= 1000 / 4 / 2, [(at, depth, held[at]) for at, depth in shown]
