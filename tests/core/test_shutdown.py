from __future__ import annotations

import pytest
from session_names import SECRET

from zpipe.core.actions import Action, Exit, Publish, Reply, SendParcel, Stop
from zpipe.core.lifecycle import State
from zpipe.core.policy import StagePolicy
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.wire import frames, section
from zpipe.core.work.task import Chunk
from zpipe.testing import seeded_bytes

PATIENCE_S = StagePolicy().link.peer_timeout_s


def head(messages: int) -> Stage:
    """A source that has emitted so many and goes on."""
    stage = Stage(Identity("p", "a", 1, "a1"), [], [("", "b")], StagePolicy(), 0.0, seeded_bytes("random"))
    stage.opened()
    stage.turn(0.0)
    if messages:
        body = section.encode([str(n) for n in range(messages)], [0.0] * messages, [None] * messages, None)
        stage.source_emitted([Chunk("", messages, body)], messages, messages, [])
    return stage


def run(stage: Stage, start: float, stop: float) -> dict[float, list[Action]]:
    """Settles ten times a second. The actions by the time they came."""
    times = [start + n / 10 for n in range(round((stop - start) * 10) + 1)]
    return {now: actions for now in times if (actions := stage.turn(now))}


def consumer(stage: Stage, now: float, limit: int) -> bytes:
    """A consumer comes in session and grants so many messages. Returns the session."""
    hello = frames.Hello(1, "p", "b", 1, "b1", SECRET, "", "a", "ipc:///run/zpipe/p.b.1/inbox.sock", 1, 100, "", [])
    stage.feedback_received(b"route", frames.write(hello), now, "uid 0, pid 1")
    multipart = [frames.read(action.frame) for action in stage.turn(now) if isinstance(action, Reply)]
    [session] = [frame.session for frame in multipart if isinstance(frame, frames.Welcome)]
    stage.session_ready(session)
    say(stage, session, now, 1, limit)
    return session


def say(stage: Stage, session: bytes, now: float, number: int, limit: int, **more: int) -> None:
    done = {"received": 0, "released": 0, "floor": 0, **more}
    said = frames.Statement(
        session,
        number,
        limit,
        1 << 20,
        **done,
        ranges=[],
        returned=[],
        finished=[],
        rate=0.0,
        reply=False,
        leaving=False,
        seen_stopped=False,
    )
    stage.feedback_received(b"route", frames.write(said), now, "uid 0, pid 1")


def leave(stage: Stage, now: float) -> None:
    stage.leave(now)
    stage.turn(now)
    stage.source_ended()


def announced(actions: list[Action]) -> list[tuple[str, bool]]:
    multipart = [frames.read(a.frame) for a in actions if isinstance(a, Publish)]
    return [(f.state, f.ended) for f in multipart if isinstance(f, frames.Announcement)]


def test_a_leaving_instance_whose_outputs_nobody_takes_stops_after_the_peer_timeout() -> None:
    stage = head(3)
    leave(stage, 10.0)
    before = run(stage, 10.0, 10.0 + PATIENCE_S - 0.1)
    assert stage.state is State.DRAINING
    assert not any(isinstance(a, Stop | Exit) for actions in before.values() for a in actions)
    after = stage.turn(10.0 + PATIENCE_S)
    assert stage.state is State.STOPPED
    assert [a for a in after if isinstance(a, Stop | Exit)] == [Stop(ended=False), Exit(failed=False)]
    assert announced(after) == [("STOPPED", False)]


def test_the_loop_is_told_when_it_will_give_up() -> None:
    stage = head(3)
    leave(stage, 10.0)
    now = 10.0
    while stage.state is not State.STOPPED and now < 20.0:
        stage.turn(now)
        now = max(now + 1e-6, stage.next_timeout())
    assert stage.state is State.STOPPED and stage.next_timeout() == float("inf")


def test_draining_alone_never_gives_up_what_it_holds() -> None:
    stage = head(3)
    stage.drain()
    stage.turn(10.0)
    stage.source_ended()
    run(stage, 10.0, 10.0 + 4 * PATIENCE_S)
    assert stage.state is State.DRAINING


def test_a_leaving_instance_waits_for_a_consumer_in_session() -> None:
    stage = head(3)
    session = consumer(stage, 1.0, 10)
    assert any(isinstance(a, SendParcel) for a in stage.turn(1.0))
    leave(stage, 2.0)
    for n in range(15):
        say(stage, session, 2.0 + n, 2 + n, 10, received=1)
        run(stage, 2.0 + n, 2.9 + n)
        assert stage.state is State.FLUSHED
    say(stage, session, 18.0, 99, 13, received=1, released=3, floor=1)
    stops = [a for a in stage.turn(18.0) if isinstance(a, Stop)]
    assert stops == [] and stage.state is State.FLUSHED, "the position of what was acked is not durable yet"
    stage.committed(3, ended=False)
    assert [a for a in stage.turn(18.0) if isinstance(a, Stop)] == [Stop(ended=False)]


def test_a_leaving_instance_that_loses_its_consumer_later_gives_up_then() -> None:
    stage = head(3)
    session = consumer(stage, 1.0, 10)
    stage.turn(1.0)
    leave(stage, 2.0)
    for n in range(10):
        say(stage, session, 2.0 + n, 2 + n, 10, received=1)
        run(stage, 2.0 + n, 2.9 + n)
    assert stage.state is State.FLUSHED
    stage.session_lost(session)
    run(stage, 12.0, 12.0 + 2 * PATIENCE_S)
    assert stage.state is State.STOPPED


def test_a_leaving_instance_that_holds_nothing_stops_at_once() -> None:
    stage = head(0)
    leave(stage, 10.0)
    assert [a for a in stage.turn(10.0) if isinstance(a, Stop)] == [Stop(ended=False)]


@pytest.mark.parametrize("seconds", [0.5, 2.0, 4.9])
def test_a_consumer_that_comes_in_time_gets_it(seconds: float) -> None:
    stage = head(3)
    leave(stage, 10.0)
    run(stage, 10.0, 10.0 + seconds)
    consumer(stage, 10.0 + seconds, 10)
    assert any(isinstance(a, SendParcel) for a in stage.turn(10.0 + seconds))
    run(stage, 10.0 + seconds, 10.0 + seconds + 3.0)
    assert stage.state is State.FLUSHED
