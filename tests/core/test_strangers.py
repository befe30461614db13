"""A stranger who reaches a feedback socket, in a whole pipeline on the virtual clock: nothing is lost, whatever it says.

It knows what everybody can hear: stages, instances and incarnations; not the secrets, and not the names of sessions. (Who knows a
name gains nothing either: its frames come by another connection.)
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from zpipe.core.policy import BatchPolicy, Bound, StagePolicy
from zpipe.core.wire import frames
from zpipe.testing import Faults, Simulation, Spec

HUGE = (1 << 63) - 1
MESSAGES = 120
SMALL = StagePolicy(queue=Bound(8, 1 << 20), unacked=Bound(40, 1 << 20), batch=BatchPolicy(5, 1 << 20, 0.2))
ROUGH = Faults(drop=0.05, duplicate=0.1, delay_s=0.02, reorder=True)


def pipeline(seed: int, faults: Faults | None = None) -> Simulation:
    specs = [
        Spec("a", messages=MESSAGES, policy=SMALL),
        Spec("b", (("a", ""),), instances=2, policy=SMALL),
        Spec("c", (("b", ""),), policy=SMALL),
    ]
    return Simulation(specs, seed, faults)


def hello(sim: Simulation, chance: random.Random, upstream: str) -> frames.Hello:
    """As a consumer that there is, or might be."""
    consumer = "b" if upstream == "a" else "c"
    instance = chance.choice([0, 1, 2, 7])
    node = sim.nodes.get((consumer, instance))
    incarnation = node.incarnation if node is not None else "forged"
    own = f"ipc:///run/zpipe/sim.{consumer}.{instance}/"
    inbox = chance.choice(
        ["nonsense", "ipc:///tmp/forged.sock", "tcp://203.0.113.9:9", node.inbox if node else own + "x"]
    )
    number = chance.choice([0, 1, 2, 3, HUGE])
    secret = chance.randbytes(16)
    suspects = chance.choice([[], [[1, HUGE, 1]]])
    return frames.Hello(
        1, "sim", consumer, instance, incarnation, secret, "", upstream, inbox, number, 100, incarnation, suspects
    )


def statement(chance: random.Random, sessions: list[bytes]) -> frames.Statement:
    """All at once is acked, handed back or held, for a session that there is or for a guess."""
    session = chance.choice([*sessions, chance.randbytes(16)])
    rows: list[list[int]] = chance.choice([[], [[1, 0, HUGE]], [[n, 0, 1] for n in range(1, 30)]])
    counts: dict[str, Any] = {name: chance.choice([0, 1, 5, HUGE]) for name in ("received", "released", "floor")}
    flags: dict[str, Any] = {name: chance.random() < 0.5 for name in ("reply", "leaving", "seen_stopped")}
    limits = chance.choice([0, HUGE])
    number = chance.choice([1, 5, 1 << 40, HUGE])
    ranges = chance.choice([[], [[0, HUGE]]])
    return frames.Statement(
        session, number, limits, limits, **counts, ranges=ranges, returned=rows, finished=rows, rate=1e9, **flags
    )


def attack(sim: Simulation, chance: random.Random) -> None:
    key = chance.choice([("a", 1), ("b", 1), ("b", 2)])
    sessions = list(sim.network.connections)
    match chance.randrange(3):
        case 0:
            sim.forge(key, hello(sim, chance, key[0]))
        case 1:
            sim.forge(key, statement(chance, sessions))
        case _:
            sim.forge(key, frames.Refuse(chance.choice([*sessions, chance.randbytes(16)]), "go away", 1))
    sim.clock.later(chance.random() * 0.01, lambda: attack(sim, chance) if sim.nodes else None)


@pytest.mark.parametrize("faults", [None, ROUGH], ids=["sound", "rough"])
@pytest.mark.parametrize("seed", range(6))
def test_a_stranger_loses_nothing(seed: int, faults: Faults | None) -> None:
    sim = pipeline(seed, faults)
    sim.run(lambda: len(sim.network.connections) == 4)  # all are in session: whoever comes now must be refused
    attack(sim, random.Random(seed))
    assert sim.run(seconds=120)
    assert sim.problems == []
    stored = Counter(sim.ids("c"))
    assert set(stored) == {f"a:{n}" for n in range(MESSAGES)}
    if faults is None:
        assert set(stored.values()) == {1}
    assert not sim.dead_letters


def test_who_answers_to_a_session_is_its_connection() -> None:
    """The name of a session is not enough: even who has read it cannot ack for its consumer."""
    sim = pipeline(0)
    assert sim.run(lambda: sim.nodes["a", 1].stage.downstream.in_flight > 3)
    head = sim.nodes["a", 1].stage.sessions.outlets[0]
    acked = head.acked
    for session in head.sessions.values():
        floor = session.sequence
        said = frames.Statement(
            session.id, 1 << 40, HUGE, HUGE, floor, session.sent_messages, floor, [], [], [], 1.0, True, False, True
        )
        sim.forge(("a", 1), said)
    before = len(sim.to_strangers)
    assert sim.run(lambda: len(sim.to_strangers) >= before + len(head.sessions), seconds=5)
    answers = [frames.read(frame) for frame in sim.to_strangers[before:]]
    assert all(isinstance(answer, frames.Refuse) and answer.reason == frames.NO_SESSION for answer in answers)
    assert head.acked - acked < 20, "what its consumers have acked meanwhile"
    assert sim.run(seconds=60) and sim.problems == []
    assert Counter(sim.ids("c")) == Counter(f"a:{n}" for n in range(MESSAGES))
