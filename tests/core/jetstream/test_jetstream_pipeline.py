"""Whole pipelines with a JetStream link, on a virtual clock: a -(stream)-> b -(ZeroMQ)-> c."""

from __future__ import annotations

import pytest
from simulated_cluster import SimulatedCluster

from zpipe.core.events import OrderGiven
from zpipe.core.policy import MIB, Bound, StagePolicy
from zpipe.monitor.model.link import LinkHistory, LinkName, count_link, link_rows
from zpipe.testing import Simulation, Spec

COUNT = 1000
SMALL = StagePolicy(queue=Bound(200, 64 * MIB))


def pipeline(
    cluster: SimulatedCluster,
    consumers: int = 1,
    policy: StagePolicy = SMALL,
    seed: int = 0,
    poison: tuple[str, ...] = (),
    seconds: float = 0.0005,
) -> Simulation:
    sim = Simulation(
        [
            Spec("a", messages=COUNT, section=10, make_links=cluster.producer, record_s=0.0005),
            Spec(
                *("b", (("a", ""),), consumers, policy, lambda instance: seconds),
                make_links=cluster.consumer,
                poison=lambda id: id in poison,
            ),
            Spec("c", (("b", ""),), seconds=lambda instance: 0.0001),
        ],
        seed,
    )
    cluster.clock, cluster.disks = sim.clock, sim.disks
    return sim


def ids(sim: Simulation) -> list[str]:
    return [stored.id for stored in sim.stored]


def test_each_message_comes_once_and_in_order_and_the_stages_end() -> None:
    cluster = SimulatedCluster()
    sim = pipeline(cluster)
    assert sim.run() and not sim.problems
    assert len(ids(sim)) == COUNT == len(set(ids(sim)))
    assert ids(sim) == sorted(ids(sim), key=lambda id: int(id.rpartition(":")[2]))
    assert not cluster.stream.parcels


def test_the_head_is_done_while_the_consumers_are_away() -> None:
    cluster = SimulatedCluster()
    sim = pipeline(cluster)
    sim.kill(("b", 1))
    assert sim.run(lambda: sim.disks["a", 1].completed)
    assert sum(count for _, count in cluster.stream.parcels.values()) == COUNT
    sim.boot("b", 1)
    assert sim.run() and not sim.problems
    assert len(ids(sim)) == COUNT == len(set(ids(sim)))


def test_a_full_stream_pushes_back() -> None:
    cluster = SimulatedCluster(most=2)
    policy = StagePolicy(unacked=Bound(200, MIB))
    sim = Simulation(
        [
            Spec("a", messages=COUNT, policy=policy, make_links=cluster.producer),
            Spec("b", (("a", ""),), make_links=cluster.consumer),
        ]
    )
    cluster.clock = sim.clock
    sim.kill(("b", 1))
    sim.run(lambda: False, seconds=10.0)
    [link] = sim.nodes["a", 1].stage.downstream.links
    assert 100 <= link.held_messages <= 200 and not sim.problems
    assert "full" in link.figures(0.0)["jetstream"]["trouble"]
    assert not link.waits_for_cluster and link.redelivered == 0, "nothing was sent twice: the stream has refused it"
    sim.boot("b", 1)
    assert sim.run() and not sim.problems
    assert len(ids(sim)) == COUNT


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_with_a_killed_instance_of_either_end(seed: int) -> None:
    cluster = SimulatedCluster()
    sim = pipeline(cluster, consumers=2, seed=seed)
    for n, key in enumerate([("b", 1), ("a", 1), ("b", 2), ("a", 1), ("b", 1)]):
        assert sim.run(lambda n=n: len(sim.stored) > 100 * (n + 1))  # type: ignore[misc]
        sim.kill(key)
        sim.boot_later(key, 0.05)
    assert sim.run() and not sim.problems
    assert len(set(ids(sim))) == COUNT
    assert not cluster.stream.parcels


@pytest.mark.parametrize("at", [1, 300, 700, 999])
def test_nothing_is_lost_with_the_cluster_away_for_a_while(at: int) -> None:
    cluster = SimulatedCluster()
    sim = pipeline(cluster, consumers=2)
    assert sim.run(lambda: len(sim.stored) >= at)
    cluster.lose()
    sim.run(lambda: False, seconds=7.0)
    cluster.restore()
    assert sim.run(seconds=60.0) and not sim.problems
    assert len(set(ids(sim))) == COUNT
    assert not cluster.stream.parcels


def test_a_parcel_whose_ack_was_lost_is_published_again() -> None:
    cluster = SimulatedCluster()
    sim = pipeline(cluster)
    assert sim.run(lambda: len(sim.stored) > 300)
    cluster.answers = False
    sim.run(lambda: False, seconds=1.0)
    cluster.answers = True
    assert sim.run() and not sim.problems
    assert len(set(ids(sim))) == COUNT < len(ids(sim))


def test_an_instance_that_leaves_hands_back_what_it_has_not_started() -> None:
    cluster = SimulatedCluster()
    sim = pipeline(cluster, consumers=2)
    assert sim.run(lambda: len(sim.stored) > COUNT // 4)
    sim.leave(("b", 1))
    assert sim.run(lambda: ("b", 1) not in sim.nodes, seconds=5.0)
    assert not sim.problems
    assert sim.run(lambda: len(set(ids(sim))) == COUNT, seconds=60.0) and not sim.problems


def test_a_slow_stage_tells_that_it_works_and_nothing_comes_twice() -> None:
    """A parcel takes five times as long as an ack is waited for."""
    cluster = SimulatedCluster(parcel_messages=20)
    sim = pipeline(cluster, consumers=2, seconds=0.1)
    assert sim.run(lambda: len(ids(sim)) >= 300, seconds=300.0) and not sim.problems
    assert len(ids(sim)) == len(set(ids(sim)))
    assert max(cluster.stream.times.values()) == 1


@pytest.mark.parametrize("consumers", [1, 2])
def test_a_message_that_ends_processes_is_a_dead_letter_and_no_other_is(consumers: int) -> None:
    """It may be given to another instance each time: the deaths are counted in the bucket, for all of them."""
    cluster = SimulatedCluster()
    sim = pipeline(cluster, consumers=consumers, poison=("a:500",))
    assert sim.run(lambda: len(set(ids(sim))) == COUNT - 1 and bool(sim.dead_letters), seconds=200.0), sim.problems
    assert [(stage, id) for stage, id, _ in sim.dead_letters] == [("b", "a:500")]
    assert not sim.problems
    assert any(key.startswith("suspect.") for key in cluster.bucket)
    assert sim.run(seconds=60.0)
    assert not any(key.startswith("suspect.") for key in cluster.bucket), "they would be kept for ever"


def test_the_depth_is_what_the_consumers_have_not_had() -> None:
    """With the consumer paused: all that was produced, but what it is done with; most of it is in the stream."""
    cluster = SimulatedCluster()
    sim = pipeline(cluster)
    assert sim.run(lambda: len(sim.stored) > COUNT // 4)
    stages = {name: sim.nodes[name, 1].stage for name in "ab"}
    stages["b"].handle(OrderGiven("pause"), sim.now)
    sim.run(lambda: False, seconds=4.0)
    ends = []
    for stage in stages.values():
        history = LinkHistory(replaced_another=False)
        history.add(link_rows(stage.snapshot(sim.clock.now), sim.clock.now), 1.0)
        ends.append([(stage.me.incarnation, history)])
    found = count_link(LinkName("a", "", "b"), ends[0], ends[1], sim.clock.now)
    depth = found["unsent"] + found["under_way"] + found["queued"]
    assert depth == stages["a"].downstream.links[0].produced - stages["b"].counts.done
    assert found["under_way"] > COUNT // 4 and found["queued"] > 0 and found["remainder"] == 0
