"""Named situations of a whole pipeline, each on the virtual clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from zpipe.core.lifecycle import State
from zpipe.core.policy import BatchPolicy, Bound, RetryPolicy, StagePolicy
from zpipe.testing import Disk, Faults, Simulation, Spec
from zpipe.testing.node import Node

MB = 1 << 20
TEN_MINUTES = BatchPolicy(100, MB, 600.0)
SLOW_S = 0.1


def spec(name: str, upstream: str = "", messages: int = 0, seconds: float = 0.001, **others: Any) -> Spec:
    policy = others.pop("policy", StagePolicy())
    inputs = ((upstream, ""),) if upstream else ()
    return Spec(name, inputs, messages=messages, seconds=lambda instance: seconds, policy=policy, **others)


def run(sim: Simulation, seconds: float = 600.0) -> float:
    """To the end, with no rule broken; how long it took."""
    began = sim.now
    assert sim.run(seconds=seconds), {key: node.stage.state for key, node in sim.nodes.items()}
    assert not sim.problems
    return sim.now - began


def run_until(sim: Simulation, what: Callable[[], bool], seconds: float = 60.0) -> None:
    assert sim.run(what, seconds)


def ids(sim: Simulation, stage: str) -> list[str]:
    return list(sim.ids(stage))


def every(stage: str, count: int) -> list[str]:
    return [f"{stage}:{n}" for n in range(count)]


def unsorted(found: list[str]) -> Counter[str]:
    return Counter(found)


# ---- sharing


def test_a_late_joiner_has_work_within_one_message_time() -> None:
    sim = Simulation([spec("a", messages=300), spec("b", "a", seconds=SLOW_S)])
    run_until(sim, lambda: len(sim.stored) == 20)
    joined = sim.now
    sim.boot("b", 2)
    run(sim)
    after = [one for one in sim.stored if one.at > joined]
    first = next(one.at for one in after if one.instance == 2)
    assert first - joined < 2 * SLOW_S  # one to be handed over, one to be done
    shares = Counter(one.instance for one in after)
    assert abs(shares[1] - shares[2]) <= 4
    assert unsorted(ids(sim, "b")) == unsorted(every("a", 300))


def test_a_late_producer_has_its_share_of_a_full_queue_within_a_few_messages() -> None:
    """The credit it needs was granted to its sibling, and has to come back first."""
    busy = StagePolicy(queue=Bound(4, MB))
    slow_b = Spec("b", (("a", ""),), seconds=lambda instance: 0.001)
    sim = Simulation([spec("a", messages=200), slow_b, spec("c", "b", seconds=SLOW_S, policy=busy)])
    run_until(sim, lambda: len(sim.stored) == 20)
    joined = sim.now
    sim.boot("b", 2)

    def taken() -> bool:
        outlet = sim.nodes["b", 2].stage.sessions.outlets[0]
        return any(session.received for session in outlet.sessions.values())

    run_until(sim, taken)
    assert sim.now - joined < 8 * SLOW_S
    run(sim)


def test_the_idle_consumer_gets_the_next_message() -> None:
    def seconds(instance: int) -> float:
        return 30.0 if instance == 1 else 0.001

    sim = Simulation([spec("a", messages=400), Spec("b", (("a", ""),), instances=3, seconds=seconds)])
    began = sim.now
    run(sim)
    by_slow = [one for one in sim.stored if one.instance == 1]
    assert len(by_slow) <= 2
    assert max(one.at for one in sim.stored if one.instance != 1) - began < 1.0


def test_one_of_four_ten_times_slower_costs_a_tenth_at_most() -> None:
    service_s, messages = 0.005, 3000

    def seconds(instance: int) -> float:
        return service_s * (10 if instance == 1 else 1)

    sim = Simulation([spec("a", messages=messages), Spec("b", (("a", ""),), instances=4, seconds=seconds)])
    began = sim.now
    run(sim)
    ideal = messages / (3 / service_s + 1 / (10 * service_s))
    assert max(one.at for one in sim.stored) - began <= 1.1 * ideal


# ---- bounds


class Watch:
    """The most that was held, in messages, in bytes, and in bytes while more than one message was held."""

    def __init__(self, sim: Simulation, key: tuple[str, int]) -> None:
        self._sim = sim
        self._key = key
        self.messages = self.bytes = self.bytes_of_several = 0

    def __call__(self) -> bool:
        node = self._sim.nodes.get(self._key)
        if node is not None:
            inlet = node.stage.inlet
            self.messages = max(self.messages, inlet.held_messages)
            self.bytes = max(self.bytes, inlet.held_bytes)
            if inlet.held_messages > 1:
                self.bytes_of_several = max(self.bytes_of_several, inlet.held_bytes)
        return self._sim.over


@pytest.mark.parametrize("producers", [1, 3])
def test_a_message_larger_than_the_queue_passes_alone(producers: int) -> None:
    def size(id: str) -> int:
        return 5000 if int(id.split(":")[1]) % 10 == 3 else 50

    narrow = StagePolicy(queue=Bound(20, 1000))
    sim = Simulation(
        [
            spec("a", messages=100, size=size),
            spec("b", "a", size=size, instances=producers),
            spec("c", "b", seconds=0.01, policy=narrow),
        ],
        largest=5200,
    )
    watch = Watch(sim, ("c", 1))
    run_until(sim, watch, 300.0)
    assert not sim.problems
    assert unsorted(ids(sim, "c")) == unsorted(every("a", 100))
    assert 5000 < watch.bytes < 1000 + 5200
    assert watch.bytes_of_several <= 1000


def test_a_stalled_sink_holds_its_bound_exactly() -> None:
    sim = Simulation(
        [
            spec("a", messages=10_000, policy=StagePolicy(unacked=Bound(500, MB))),
            spec("b", "a", seconds=60.0, policy=StagePolicy(queue=Bound(7, MB), workers=7)),
        ]
    )
    run_until(sim, lambda: sim.now > 1030.0)
    assert not sim.problems
    assert sim.nodes["b", 1].stage.inlet.held_messages == 7
    assert sim.nodes["a", 1].stage.sessions.outlets[0].held_messages == 500


# ---- batches


def test_a_partial_batch_leaves_at_once_at_the_end_of_input() -> None:
    batching = StagePolicy(batch=TEN_MINUTES)
    sim = Simulation(
        [
            spec("a", messages=250),
            spec("b", "a", policy=batching, instances=2),
            spec("c", "b", policy=batching),
            spec("d", "c", policy=batching),
        ]
    )
    assert run(sim) < 5.0
    assert unsorted(ids(sim, "d")) == unsorted(every("a", 250))


@pytest.mark.parametrize("instances", [1, 2])
def test_a_partial_batch_leaves_when_upstream_may_send_nothing_more(instances: int) -> None:
    """The head's bound on unacked messages is reached: what it waits for lies in the batches below, also behind others."""
    sim = Simulation(
        [
            spec("a", messages=100, policy=StagePolicy(unacked=Bound(10, MB))),
            spec("b", "a"),
            spec("c", "b", policy=StagePolicy(batch=TEN_MINUTES), instances=instances),
            spec("d", "c", policy=StagePolicy(batch=TEN_MINUTES)),
        ]
    )
    assert run(sim) < 10.0
    assert unsorted(ids(sim, "d")) == unsorted(every("a", 100))


def test_a_batch_that_cannot_fit_the_queue_leaves_partial() -> None:
    sim = Simulation(
        [
            spec("a", messages=50),
            spec("b", "a", instances=2),
            spec("c", "b", policy=StagePolicy(queue=Bound(6, MB), batch=TEN_MINUTES)),
        ]
    )
    assert run(sim) < 5.0


# ---- deaths


@pytest.mark.parametrize("seed", range(12))
def test_a_stopped_consumer_loses_its_messages_to_a_sibling(seed: int) -> None:
    """SIGSTOP: after the peer timeout a sibling has them; at waking nothing unstarted is done again.

    The sibling also has what was finished before, in a parcel of which nothing was acked yet: nobody else knows of it.
    """
    sim = Simulation([spec("a", messages=60), spec("b", "a", seconds=0.01, instances=2)], seed)
    stopped = sim.nodes["b", 1].stage
    run_until(sim, lambda: len(sim.stored) >= 10 and stopped.counts.queued >= 2 and stopped.counts.in_process >= 1)
    held, started = stopped.inlet.held_messages, stopped.counts.in_process
    finished = {one.id for one in sim.stored if one.instance == 1}
    sim.freeze(("b", 1), 12.0)
    began = sim.now
    run(sim)
    by_sibling = [one.at for one in sim.stored if one.instance == 2]
    assert max(by_sibling) - began < 5.0 + 1.0 + 60 * 0.01
    at_waking = [one.id for one in sim.stored if one.instance == 1 and one.at > began]
    assert len(at_waking) == started
    found = unsorted(ids(sim, "b"))
    assert set(found) == set(every("a", 60))
    twice = {id for id, times in found.items() if times > 1}
    assert twice <= finished | set(at_waking)
    assert max(found.values()) == 2
    assert stopped.counts.returned == held - started


def test_a_stage_that_dies_during_the_drain_comes_back_and_finishes() -> None:
    sim = Simulation([spec("a", messages=100), spec("b", "a", seconds=0.02), spec("c", "b", seconds=0.02)])
    run_until(sim, lambda: len(sim.stored) == 30)
    sim.drain()
    run_until(sim, lambda: sim.state(("b", 1)) is State.DRAINING)
    sim.kill(("b", 1))
    sim.boot_later(("b", 1), 3.0)
    run(sim)
    assert set(ids(sim, "c")) == set(every("a", sim.disks["a", 1].position))


def test_a_consumer_that_restarts_after_its_upstream_stopped_stops_too() -> None:
    sim = Simulation([spec("a", messages=5), spec("b", "a"), spec("c", "b")])
    run_until(sim, lambda: ("b", 1) in sim.marks)
    sim.kill(("c", 1))
    sim.boot_later(("c", 1), 1.0)
    assert run(sim) < 10.0
    assert unsorted(ids(sim, "c")) == unsorted(every("a", 5))


def test_a_consumer_that_restarts_waits_for_the_upstream_instance_that_is_still_away() -> None:
    """One of two has stopped, as its mark says; the other is down, and what it holds will come."""
    sim = Simulation([spec("a", messages=20), spec("b", "a", instances=2), spec("c", "b", seconds=0.05)])
    run_until(sim, lambda: sim.state(("b", 2)) is State.FLUSHED)
    sim.kill(("b", 2))
    sim.kill(("c", 1))
    sim.marks.add(("b", 1))
    sim.kill(("b", 1))
    sim.boot("c", 1)
    sim.boot_later(("b", 2), 3.0)
    run(sim)
    assert set(ids(sim, "c")) == set(every("a", 20))


def test_a_consumer_that_restarts_does_not_wait_for_an_upstream_instance_that_has_left() -> None:
    sim = Simulation([spec("a", messages=60), spec("b", "a", seconds=0.01, instances=2), spec("c", "b")])
    run_until(sim, lambda: len(sim.stored) >= 10)
    sim.leave(("b", 2))
    run_until(sim, lambda: ("b", 2) not in sim.nodes)
    sim.kill(("c", 1))
    sim.boot_later(("c", 1), 1.0)
    assert run(sim) < 10.0
    assert set(ids(sim, "c")) == set(every("a", 60))


def test_an_upstream_instance_that_has_left_is_waited_for_again_once_it_is_back() -> None:
    sim = Simulation([spec("a", messages=100, instances=2, record_s=0.1), spec("b", "a")])
    run_until(sim, lambda: len(sim.stored) >= 10)
    sim.leave(("a", 2))
    run_until(sim, lambda: ("a", 2) not in sim.nodes)
    sim.kill(("b", 1))
    sim.boot("b", 1)
    run_until(sim, lambda: sim.state(("a", 1)) is State.FLUSHED)
    sim.boot("a", 2)
    run(sim)
    assert {sim.disks["a", 1].completed, sim.disks["a", 2].completed} == {True}


def test_a_redelivery_after_flushed_is_taken() -> None:
    sim = Simulation(
        [
            spec("a", messages=40),
            spec("b", "a"),
            spec("c", "b", seconds=0.1, instances=2, policy=StagePolicy(workers=4)),
        ]
    )
    run_until(sim, lambda: sim.state(("b", 1)) is State.FLUSHED)
    node = sim.nodes["b", 1]
    assert node.stage.downstream.in_flight
    seen = [State.FLUSHED]

    def watch() -> bool:
        if node.stage.state is not seen[-1]:
            seen.append(node.stage.state)
        return sim.over

    sim.kill(("c", 1))
    sim.boot_later(("c", 1), 20.0)
    run_until(sim, watch)
    assert not sim.problems
    assert seen == [State.FLUSHED, State.DRAINING, State.FLUSHED, State.STOPPED]
    assert set(ids(sim, "c")) == set(every("a", 40))


def test_zero_messages() -> None:
    batching = StagePolicy(batch=TEN_MINUTES)
    sim = Simulation([spec("a"), spec("b", "a", instances=2), spec("c", "b", policy=batching)])
    assert run(sim) < 5.0
    assert not sim.stored
    assert sim.disks["a", 1] == Disk(0, completed=True)


# ---- dead letters


def test_a_message_is_unacked_until_its_dead_letter_is_written() -> None:
    def plan(id: str, attempt: int) -> list[str]:
        if id == "a:3":
            raise ValueError("bad")
        return [id]

    dying = StagePolicy(retry=RetryPolicy(attempts=2, delay_s=0.1))
    sim = Simulation([spec("a", messages=10), spec("b", "a", plan=plan, policy=dying)], faults=Faults(disk=1.0))
    run_until(sim, lambda: sim.now > 1010.0)
    assert len(sim.stored) == 9 and not sim.dead_letters
    assert sim.disks["a", 1].position <= 3
    assert sim.nodes["a", 1].stage.downstream.in_flight
    assert sim.nodes["b", 1].stage.counts.in_process == 1
    sim.network.faults = Faults()
    run(sim)
    assert [(stage, id) for stage, id, _ in sim.dead_letters] == [("b", "a:3")]
    assert sim.disks["a", 1] == Disk(10, completed=True)


def test_a_bad_message_of_a_batch_ends_alone() -> None:
    def plan(id: str, attempt: int) -> list[str]:
        if id in ("a:3", "a:40"):
            raise ValueError("bad")
        return [id]

    dying = StagePolicy(retry=RetryPolicy(attempts=2, delay_s=0.1), batch=BatchPolicy(20, MB, 1.0))
    sim = Simulation([spec("a", messages=60), spec("b", "a", plan=plan, policy=dying), spec("c", "b")])
    run(sim)
    assert sorted(id for _, id, _ in sim.dead_letters) == ["a:3", "a:40"]
    assert unsorted(ids(sim, "c")) == unsorted([id for id in every("a", 60) if id not in ("a:3", "a:40")])


# ---- leaving and draining


def test_a_middle_instance_that_leaves_hands_back_what_it_has_not_started() -> None:
    sim = Simulation([spec("a", messages=60), spec("b", "a", seconds=0.01, instances=2), spec("c", "b")])
    stage = sim.nodes["b", 1].stage
    run_until(sim, lambda: len(sim.stored) >= 10 and stage.counts.queued >= 2 and stage.counts.in_process >= 1)
    held, started = stage.inlet.held_messages, stage.counts.in_process
    sim.leave(("b", 1))
    began = sim.now
    assert (stage.counts.queued, stage.counts.returned) == (0, held - started)
    run_until(sim, lambda: ("b", 1) not in sim.nodes)
    assert sim.now - began < 0.01 * started + 1.5  # its last acks, and the confirm of a heartbeat at most
    assert stage.counts.completed + stage.counts.returned == stage.counts.received
    run(sim)
    assert unsorted(ids(sim, "c")) == unsorted(every("a", 60))


def test_a_lone_instance_that_leaves_lets_upstream_hold() -> None:
    sim = Simulation([spec("a", messages=30), spec("b", "a", seconds=0.05)])
    run_until(sim, lambda: len(sim.stored) == 5)
    sim.leave(("b", 1))
    run_until(sim, lambda: ("b", 1) not in sim.nodes)
    done = len(sim.stored)
    run_until(sim, lambda: sim.now > 1030.0)
    assert len(sim.stored) == done
    sim.boot("b", 1)
    run(sim)
    assert unsorted(ids(sim, "b")) == unsorted(every("a", 30))


def test_a_head_that_leaves_goes_on_where_it_was() -> None:
    sim = Simulation([spec("a", messages=100), spec("b", "a", seconds=0.01)])
    run_until(sim, lambda: len(sim.stored) == 30)
    sim.leave(("a", 1))
    run_until(sim, lambda: ("a", 1) not in sim.nodes)
    position = sim.disks["a", 1].position
    assert 0 < position == len(sim.stored)
    assert sim.state(("b", 1)) is State.RUNNING
    sim.boot("a", 1)
    run(sim)
    assert ids(sim, "b") == every("a", 100)


def test_a_drain_in_the_middle_and_a_second_run_that_continues() -> None:
    specs = [
        spec("a", messages=100, policy=StagePolicy(unacked=Bound(40, MB))),
        spec("b", "a", seconds=0.01),
        spec("c", "b", policy=StagePolicy(batch=TEN_MINUTES)),
    ]
    first = Simulation(specs)
    run_until(first, lambda: first.nodes["b", 1].stage.counts.completed >= 30)
    first.drain()
    assert run(first) < 10.0
    position = first.disks["a", 1].position
    assert ids(first, "c") == every("a", position) and 30 <= position < 100
    second = Simulation(specs, disks=first.disks)
    run(second)
    assert ids(first, "c") + ids(second, "c") == every("a", 100)


def chain(length: int) -> Iterator[Spec]:
    yield spec("a", messages=500)
    for upstream, name in zip("abcdefg", "bcdefgh"[:length], strict=False):
        yield spec(name, upstream, policy=StagePolicy(queue=Bound(10, MB)))


def test_order_is_kept_along_a_chain_with_narrow_queues() -> None:
    sim = Simulation(list(chain(5)))
    run(sim)
    assert ids(sim, "f") == every("a", 500)


@pytest.mark.parametrize("how", ["leave", "kill"])
def test_batches_fill_again_after_an_upstream_instance_is_gone(how: str) -> None:
    """What it said last, that it waits for acks, holds no longer."""
    sim = Simulation(
        [
            spec("a", messages=1000, policy=StagePolicy(unacked=Bound(300, MB))),
            spec("b", "a", seconds=0.002, instances=2),
            spec("c", "b", policy=StagePolicy(batch=BatchPolicy(20, MB, 5.0))),
        ]
    )
    run_until(sim, lambda: len(sim.stored) >= 100)
    if how == "leave":
        sim.leave(("b", 2))
    else:
        sim.kill(("b", 2))
    run_until(sim, lambda: ("b", 2) not in sim.nodes)
    gone = sim.now
    run_until(sim, lambda: len(sim.stored) >= 800)
    sizes = Counter(one.at for one in sim.stored if one.at > gone + 0.2)
    assert sum(sizes.values()) / len(sizes) > 15


# ---- the simulation itself


def test_a_seed_gives_the_same_run_down_to_the_names_of_sessions() -> None:
    """A failure is looked into by playing it again."""

    def play() -> tuple[list[tuple[str, int, float]], set[bytes]]:
        faults = Faults(drop=0.1, duplicate=0.1, delay_s=0.02, reorder=True)
        sim = Simulation([spec("a", messages=80), spec("b", "a", instances=2), spec("c", "b")], 7, faults)
        names: set[bytes] = set()

        def watch() -> bool:
            names.update(sim.network.connections)
            return sim.over

        run_until(sim, watch)
        return [(one.id, one.instance, one.at) for one in sim.stored], names

    first = play()
    assert all(first) and first == play()


# ---- at rest


def test_a_pipeline_at_rest_turns_at_its_heartbeats_alone() -> None:
    """Those are at the same instants, whenever the instances have started. A frame that comes of them is a turn more."""

    turns: Counter[str] = Counter()
    own: Counter[str] = Counter()

    class Counted(Simulation):
        def _turned(self, node: Node) -> None:
            turns[node.key[0]] += 1
            own[node.key[0]] += self.now % 1.0 == 0.0
            super()._turned(node)

    sim = Counted([spec("a", messages=2, record_s=1e6), spec("b", "a"), spec("c", "b")])
    for began_s, stage in ((2.3, "b"), (3.7, "c")):
        sim.clock.later(began_s, lambda stage=stage: sim.kill((stage, 1)))  # type: ignore[misc]
        sim.clock.later(began_s, lambda stage=stage: sim.boot(stage, 1))  # type: ignore[misc]
    run_until(sim, lambda: sim.now > 1010.5)
    turns.clear()
    own.clear()
    run_until(sim, lambda: sim.now > 1070.5, seconds=100)
    assert own == {"a": 60, "b": 60, "c": 60}
    # A statement from each consumer, a confirm and an announcement from each producer.
    assert turns == {"a": 60 * (1 + 1), "b": 60 * (1 + 1 + 2), "c": 60 * (1 + 2)}
