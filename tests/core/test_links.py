"""A link of a kind that the core has never heard of joins by its two faces alone, and keeps every promise."""

from __future__ import annotations

import pytest
from shelf_link import Shelf

from zpipe.core.policy import MIB, Bound, StagePolicy
from zpipe.testing import Simulation, Spec

COUNT = 1000
SMALL = StagePolicy(queue=Bound(100, 64 * MIB))


def pipeline(
    shelf: Shelf, heads: int = 1, consumers: int = 1, policy: StagePolicy = SMALL, seed: int = 0
) -> Simulation:
    """a -(shelf)-> b -> c."""
    return Simulation(
        [
            Spec("a", messages=COUNT, section=10, make_links=shelf.producer, instances=heads),
            Spec(
                *("b", (("a", ""),), consumers, policy, lambda instance: 0.0005),
                make_links=shelf.consumer_of,
            ),
            Spec("c", (("b", ""),), seconds=lambda instance: 0.0001),
        ],
        seed,
    )


def ids(sim: Simulation) -> list[str]:
    return [stored.id for stored in sim.stored]


def test_each_message_comes_once_and_in_order_and_the_stages_end() -> None:
    shelf = Shelf("a", "b")
    sim = pipeline(shelf)
    assert sim.run() and not sim.problems
    assert len(ids(sim)) == COUNT == len(set(ids(sim)))
    assert ids(sim) == sorted(ids(sim), key=lambda id: int(id.rpartition(":")[2]))
    assert sim.disks["a", 1].completed and sim.disks["a", 1].position == COUNT
    assert shelf.most == shelf.room and shelf.empty


def test_what_the_shelf_answers_for_is_settled_above_it() -> None:
    """The consumers are away: the head goes on until the shelf is full, and what it answers for then is within its own bound."""
    shelf = Shelf("a", "b", room=1000)
    sim = pipeline(shelf)
    sim.kill(("b", 1))
    assert sim.run(lambda: sim.disks["a", 1].completed)
    assert not sim.stored
    sim.boot("b", 1)
    assert sim.run() and not sim.problems
    assert len(ids(sim)) == COUNT == len(set(ids(sim)))


def test_two_inputs_of_different_kinds_share_the_queue() -> None:
    shelf = Shelf("a", "b")
    sim = Simulation(
        [
            Spec("a", messages=COUNT, section=10, make_links=shelf.producer),
            Spec("d", messages=COUNT),
            Spec("b", (("a", ""), ("d", "")), 1, SMALL, lambda instance: 0.0005, make_links=shelf.consumer_of),
        ]
    )
    assert sim.run() and not sim.problems  # among them: the bound on the queue
    assert len(ids(sim)) == 2 * COUNT == len(set(ids(sim)))


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_with_a_killed_instance_of_either_end(seed: int) -> None:
    shelf = Shelf("a", "b")
    sim = pipeline(shelf, consumers=2, seed=seed)
    for n, key in enumerate([("b", 1), ("a", 1), ("b", 2), ("a", 1), ("b", 1)]):
        assert sim.run(lambda n=n: len(sim.stored) > 130 * (n + 1))  # type: ignore[misc]
        sim.kill(key)
        sim.boot_later(key, 0.05)
    assert sim.run() and not sim.problems
    assert len(set(ids(sim))) == COUNT and len(ids(sim)) < 2 * COUNT


def test_an_instance_that_leaves_gives_back_what_it_has_not_started() -> None:
    shelf = Shelf("a", "b")
    sim = pipeline(shelf, consumers=2)
    assert sim.run(lambda: len(sim.stored) > COUNT // 4)
    sim.leave(("b", 1))
    assert sim.run(lambda: ("b", 1) not in sim.nodes, seconds=5.0)
    assert not shelf.taken.get(1) and not sim.problems
    assert sim.run(lambda: len(set(ids(sim))) == COUNT, seconds=60.0) and not sim.problems


def test_a_stage_whose_link_takes_nothing_stops_at_its_bound() -> None:
    shelf = Shelf("a", "b", room=1)
    policy = StagePolicy(unacked=Bound(200, MIB))
    sim = Simulation(
        [
            Spec("a", messages=COUNT, policy=policy, make_links=shelf.producer),
            Spec("b", (("a", ""),), make_links=shelf.consumer_of),
        ]
    )
    sim.kill(("b", 1))
    sim.run(lambda: False, seconds=10.0)
    [link] = sim.nodes["a", 1].stage.downstream.links
    assert 190 <= link.held_messages <= 200 and not sim.problems
    sim.boot("b", 1)
    assert sim.run() and not sim.problems
    assert len(ids(sim)) == COUNT
