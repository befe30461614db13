"""Messages that the plugin holds: nothing is lost, the counts add up, and a drain waits for what is made of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zpipe.core import events
from zpipe.core.actions import LogEvent, StartTask
from zpipe.core.lifecycle import State
from zpipe.core.policy import Bound, LinkPolicy, StagePolicy
from zpipe.core.processing.hook_timer import AGAIN_S, NEVER, HookTimer
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.work.task import Failure, Result
from zpipe.testing import Faults, Simulation, Spec, seeded_bytes

HOLDS = StagePolicy(flushes=True)
TICKS = StagePolicy(tick_s=0.5, flushes=True)
LINK = LinkPolicy(peer_timeout_s=2.0, heartbeat_s=0.5)


def pipeline(policy: StagePolicy = HOLDS, messages: int = 100, window: int = 30, instances: int = 1) -> list[Spec]:
    return [
        Spec("a", messages=messages, policy=StagePolicy(link=LINK)),
        Spec("w", (("a", ""),), instances, replace(policy, link=LINK), window=window),
        Spec("z", (("w", ""),), policy=StagePolicy(link=LINK)),
    ]


def stored(sim: Simulation) -> list[str]:
    return sorted(sim.ids("z"), key=lambda id: int(id.partition(":")[2]))


def expected(messages: int) -> list[str]:
    return [f"a:{n}" for n in range(messages)]


def test_windows_and_what_a_flush_makes_of_the_rest() -> None:
    sim = Simulation(pipeline())
    assert sim.run() and not sim.problems
    assert stored(sim) == expected(100)
    counts = {stage.me.stage: stage.counts for stage in sim.stopped}
    assert (counts["w"].received, counts["w"].completed, counts["w"].in_process) == (100, 100, 0)
    assert counts["z"].received == 4, "three full windows, and what the flush made of the rest"


def test_what_is_held_is_in_process_and_unacked() -> None:
    sim = Simulation([replace(pipeline()[0], messages=10**6, record_s=0.01), *pipeline()[1:]])
    assert sim.run(lambda: len(sim.nodes["w", 1].stage.processing.held) == 29, seconds=10)
    stage = sim.nodes["w", 1].stage
    assert stage.counts.in_process == 29 and stage.inlet.held_messages == 29 and not sim.problems
    assert sim.run(lambda: len(sim.stored) >= 30, seconds=10)


def test_a_killed_holder_gets_all_of_its_window_again() -> None:
    sim = Simulation([replace(pipeline()[0], messages=40, record_s=0.01), *pipeline()[1:]])
    assert sim.run(lambda: len(sim.nodes["w", 1].stage.processing.held) == 10, seconds=10) and not sim.stored
    sim.kill(("w", 1))
    sim.boot("w", 1)
    assert sim.run() and not sim.problems
    assert stored(sim) == expected(40), "each once, though ten of them were held twice"


@pytest.mark.parametrize("instances", [1, 2])
def test_one_that_leaves_flushes_and_hands_back_nothing(instances: int) -> None:
    sim = Simulation(pipeline(messages=100, instances=instances))
    assert sim.run(lambda: len(sim.nodes["w", 1].stage.processing.held) >= 10, seconds=10)
    sim.back_later(("w", 1), 0.5)
    sim.leave(("w", 1))
    assert sim.run() and not sim.problems
    assert stored(sim) == expected(100)


def test_without_a_flush_one_that_leaves_hands_back_what_it_holds() -> None:
    sim = Simulation(pipeline(StagePolicy(), messages=40, window=40, instances=2))
    # Dealt out to two, no window is ever full. When one has gone the other has all of them.
    assert sim.run(lambda: len(sim.nodes["w", 1].stage.processing.held) >= 5, seconds=10)
    [leaving] = [sim.nodes["w", 1].stage]
    sim.leave(("w", 1))
    assert sim.run(lambda: leaving.over, seconds=20), "what is handed back does not hold it up"
    assert leaving.counts.returned >= 5 and leaving.counts.in_process == 0 and not leaving.counts.off()
    assert sim.run(lambda: len(sim.stored) == 40, seconds=20) and stored(sim) == expected(40)
    assert not sim.problems


def test_a_tick_releases_while_nothing_comes() -> None:
    slow = replace(pipeline()[0], messages=10**6, record_s=0.2)
    sim = Simulation([slow, *pipeline(TICKS, window=1000)[1:]])
    assert sim.run(lambda: len(sim.stored) >= 20, seconds=10) and not sim.problems
    assert len({one.at for one in sim.stored}) >= 4, "by a tick every half second"


def test_a_window_larger_than_the_queue_is_said() -> None:
    said = []
    sim = Simulation(pipeline(StagePolicy(queue=Bound(20, 10**6), flushes=True), window=30))
    node = sim.nodes["w", 1]
    turn = node.stage.turn
    node.stage.turn = lambda now: [a for a in turn(now) if not said.append(getattr(a, "event", ""))]  # type: ignore[method-assign, func-returns-value]
    assert not sim.run(lambda: bool(sim.stored), seconds=10)
    assert "held.full" in said and len(node.stage.processing.held) == 20 and not sim.problems


Fault = tuple[str, int, int]
FAULTS = st.lists(
    st.tuples(st.sampled_from(["kill", "leave", "cut"]), st.integers(1, 80), st.integers(1, 2)), max_size=6
)


@settings(max_examples=30, deadline=None)
@given(FAULTS, st.integers(1, 12), st.integers(0, 1000), st.booleans(), st.booleans())
def test_nothing_that_is_held_is_lost(faults: list[Fault], window: int, seed: int, ticks: bool, flushes: bool) -> None:
    policy = StagePolicy(tick_s=0.05 if ticks else None, flushes=flushes or not ticks, queue=Bound(50, 10**6))
    specs = pipeline(policy, messages=60, window=window, instances=2)
    sim = Simulation(specs, seed, Faults())
    for what, at, instance in faults:
        assert sim.run(lambda at=at: len(sim.stored) >= at or sim.over, seconds=100)  # type: ignore[misc]
        _do(sim, what, ("w", instance))
    assert sim.run(seconds=300), [(n.key, n.stage.state, n.stage.counts) for n in sim.nodes.values()]
    assert set(stored(sim)) == set(expected(60)) and not sim.problems
    for stage in sim.stopped:
        assert not stage.counts.off() and not (stage.counts.in_process or stage.counts.queued)
    if all(what == "leave" for what, _, _ in faults):
        assert stored(sim) == expected(60), "who leaves in order has nothing done twice"


def _do(sim: Simulation, what: str, key: tuple[str, int]) -> None:
    node = sim.nodes.get(key)
    if node is None or node.stage.state is State.STOPPED:
        return
    if what == "kill":
        sim.kill(key)
        sim.boot_later(key, 0.1)
    elif what == "leave":
        sim.back_later(key, 0.1)
        sim.leave(key)
    else:
        for session in sim.network.sessions(sim.nodes["a", 1].incarnation if ("a", 1) in sim.nodes else ""):
            sim.lose_session(session)


def test_a_hook_that_fails_is_said_with_what_makes_it_the_same_as_before() -> None:
    identity = Identity("p", "w", 1, "w1")
    stage = Stage(identity, [("read", "")], [("", "store")], StagePolicy(tick_s=1.0), 0.0, seeded_bytes("hook"))
    stage.handle(events.Opened(), 0.0)
    said = []
    for now in (1.0, 2.0):
        [task] = [action.task for action in stage.turn(now) if isinstance(action, StartTask)]
        failure = Failure(0, f"KeyError: {now}", "Traceback: there")
        stage.handle(events.CallFinished(task, Result([], failures=[failure])), now + 0.1)
        said += [action for action in stage.turn(now + 0.2) if isinstance(action, LogEvent)]
    first, second = (LogEvent("tick.failed", {"reason": f"KeyError: {n}", "held": 0}) for n in ("1.0", "2.0"))
    assert said == [replace(one, alike="KeyError", traceback="Traceback: there") for one in (first, second)]


# The times of tick and flush


def timer(tick_s: float | None = 1.0, flushes: bool = True, now: float = 0.25) -> HookTimer:
    return HookTimer(tick_s, flushes, now)


def test_ticks_come_at_whole_multiples_one_at_a_time() -> None:
    one = timer()
    assert (one.next_at(0.25), one.due(0.99, False, 5), one.due(1.0, False, 5)) == (1.0, None, "tick")
    one.begin()
    assert (one.next_at(5.0), one.due(5.0, True, 5)) == (NEVER, None)
    one.done("tick", failed=True, leaving=False, now=5.2, received=5)
    assert one.next_at(5.2) == 6.0


def test_a_flush_is_owed_once_and_again_after_more_came() -> None:
    one = timer(None)
    assert one.owes_flush(0) and one.due(1.0, False, 0) is None and one.due(1.0, True, 0) == "flush"
    one.begin()
    assert one.owes_flush(0)
    one.done("flush", failed=False, leaving=False, now=1.0, received=0)
    assert not one.owes_flush(0) and one.owes_flush(1) and one.due(2.0, True, 1) == "flush"
    assert not timer(1.0, flushes=False).owes_flush(1)


def test_a_flush_that_failed_comes_again_unless_the_instance_leaves() -> None:
    one = timer(None)
    one.begin()
    one.done("flush", failed=True, leaving=False, now=1.0, received=0)
    assert (one.due(1.0, True, 0), one.next_at(1.0), one.due(1.0 + AGAIN_S, True, 0)) == (None, 1.0 + AGAIN_S, "flush")
    one.begin()
    one.done("flush", failed=True, leaving=True, now=3.0, received=0)
    assert not one.owes_flush(0)


def test_a_slow_stage_is_still_given_what_its_window_needs() -> None:
    # It asks for no more work than it can do soon, and what it holds is no work.
    source, windows, sink = pipeline(messages=200, window=200)
    sim = Simulation([source, replace(windows, seconds=lambda instance: 0.02), sink])
    [stage] = [sim.nodes["w", 1].stage]
    assert sim.run(lambda: len(stage.processing.held) == 150, seconds=60), stage.counts
    assert sim.run() and stored(sim) == expected(200) and not sim.problems
    assert [s.counts.received for s in sim.stopped if s.me.stage == "z"] == [1]
