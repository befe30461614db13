"""The end of an instance, told as scripts: what it says and does while it drains or leaves, and what it waits for."""

from __future__ import annotations

from typing import Any

import pytest
from playbook import Line, Playbook, line
from session_names import SECRET

from zpipe.core import actions as act
from zpipe.core import events
from zpipe.core.policy import StagePolicy
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.wire import frames, section
from zpipe.core.work.task import Chunk
from zpipe.testing import seeded_bytes

PATIENCE_S = StagePolicy().link.peer_timeout_s

# Events. `until` is turns ten times a second until then, `sleep_until` those that the stage itself asks for. The source is over
# as soon as it has been told to close. A consumer comes and says how many messages it may be sent.
until, sleep_until = line("until"), line("sleep_until")
drain, leave = line("drain"), line("leave")
consumer_comes, statement, session_lost = line("consumer_comes"), line("statement"), line("session_lost")
committed = line("committed")
# What comes out. `announces` only where the state is another one than before; replies to consumers are left out.
parcel, end, close_source, commit = line("parcel"), line("end"), line("close_source"), line("commit")
announces, stop, exits = line("announces"), line("stop"), line("exits")
# A question: when the stage wants its next turn.
shows = line("shows")


class Head:
    """A source that has yielded so many messages and would go on. Before the script begins it runs, at second 0."""

    def __init__(self, messages: int) -> None:
        self.stage = Stage(Identity("p", "a", 1, "a1"), [], [("", "b")], StagePolicy(), 0.0, seeded_bytes("random"))
        self.now = 0.0
        self._session = b""
        self._statements = 0
        self._state = "RUNNING"
        self._came: list[Line] = []
        self.stage.handle(events.Opened(), 0.0)
        self._turn()
        if messages:
            body = section.encode([str(n) for n in range(messages)], [0.0] * messages, [None] * messages, None)
            self.stage.handle(events.SourceYielded([Chunk("", messages, body)], messages, messages, []), 0.0)
        assert not self._came

    def handle(self, event: Line) -> list[Line]:
        getattr(self, f"on_{event.kind}")(*event.values, **event.fields)
        came, self._came = self._came, []
        return came

    def answer(self, question: Line) -> Line | None:
        return shows(next_at=self.stage.next_at()) if question.kind == "shows" else None

    def on_until(self, now: float) -> None:
        while self.now < now:
            self.now = min(self.now + 0.1, now)
            self._turn()

    def on_sleep_until(self, now: float) -> None:
        while self.now < now:
            self._turn()
            self.now = min(max(self.now + 1e-6, self.stage.next_at()), now)

    def on_drain(self) -> None:
        self.stage.handle(events.OrderGiven("drain"), self.now)
        self._turn()

    def on_leave(self) -> None:
        self.stage.handle(events.OrderGiven("leave"), self.now)
        self._turn()

    def on_consumer_comes(self, limit: int) -> None:
        inbox = "ipc:///run/zpipe/p.b.1/inbox.sock"
        self._receive(frames.Hello(frames.VERSION, "p", "b", 1, "b1", SECRET, "", "a", inbox, 1, 100, "", []))
        self.stage.handle(events.SessionReady(self._session), self.now)
        self.on_statement(limit)

    def on_statement(self, limit: int, received: int = 0, released: int = 0, floor: int = 0) -> None:
        self._statements += 1
        credit, done = (limit, 1 << 20), (received, released, floor)
        said = frames.Statement(self._session, self._statements, *credit, *done, [], [], [], 0.0, False, False, False)
        self._receive(said)

    def on_session_lost(self) -> None:
        self.stage.handle(events.SessionLost(self._session), self.now)
        self._turn()

    def on_committed(self, count: int) -> None:
        self.stage.handle(events.PositionStored(count, False), self.now)
        self._turn()

    def _receive(self, frame: frames.Frame) -> None:
        self.stage.handle(events.FeedbackReceived(b"route", frames.write(frame), "uid 0, pid 1"), self.now)
        self._turn()

    def _turn(self) -> None:
        came = self.stage.turn(self.now)
        self._came += [told for action in came if (told := self._told(action)) is not None]
        if any(isinstance(action, act.CloseSource) for action in came):
            self.stage.handle(events.SourceEnded(), self.now)
            self._turn()

    def _told(self, action: act.Action) -> Line | None:
        match action:
            case act.OpenSession(session):
                self._session = session
            case act.SendParcel(_, header, _):
                frame: Any = frames.read(header)
                return end() if frame.is_end else parcel(messages=sum(row[0] for row in frame.sections))
            case act.CloseSource():
                return close_source()
            case act.Commit(_, count, _):
                return commit(count)
            case act.Stop(ended):
                return stop(ended=ended)
            case act.Exit(failed):
                return exits(failed=failed)
            case act.Publish(frames.ANNOUNCEMENT_TOPIC, frame):
                said: Any = frames.read(frame)
                if said.state != self._state:
                    self._state = said.state
                    return announces(said.state, ended=said.ended)
        return None


def test_a_leaving_instance_whose_outputs_nobody_takes_stops_after_the_peer_timeout() -> None:
    assert (
        Playbook(Head(3))
        << until(10.0)
        << leave()
        >> close_source()
        >> announces("DRAINING", ended=False)
        << until(10.0 + PATIENCE_S - 0.1)
        << until(10.0 + PATIENCE_S)
        >> stop(ended=False)
        >> exits(failed=False)
        >> announces("STOPPED", ended=False)
    )


def test_the_loop_is_told_when_it_will_give_up() -> None:
    assert (
        Playbook(Head(3))
        << until(10.0)
        << leave()
        >> close_source()
        >> announces("DRAINING", ended=False)
        << sleep_until(20.0)
        >> stop(ended=False)
        >> exits(failed=False)
        >> announces("STOPPED", ended=False)
        >> shows(next_at=float("inf"))
    )


def test_draining_alone_never_gives_up_what_it_holds() -> None:
    assert (
        Playbook(Head(3))
        << until(10.0)
        << drain()
        >> close_source()
        >> announces("DRAINING", ended=False)
        << until(10.0 + 4 * PATIENCE_S)
    )


def flushed(seconds: int) -> Playbook:
    """A leaving instance that has sent all to a consumer, which says every second, so many times, that it is not finished."""
    book = (
        Playbook(Head(3))
        << until(1.0)
        << consumer_comes(10)
        >> parcel(messages=3)
        << until(2.0)
        << leave()
        >> close_source()
        >> announces("DRAINING", ended=False)
        >> announces("FLUSHED", ended=False)
    )
    for n in range(seconds):
        book = book << statement(10, received=1) << until(3.0 + n)
    return book


def test_a_leaving_instance_waits_for_a_consumer_in_session_and_for_its_own_position() -> None:
    assert (
        flushed(seconds=16)
        << statement(13, received=1, released=3, floor=1)
        >> commit(3)
        << until(19.0)
        << committed(3)
        >> stop(ended=False)
        >> announces("STOPPED", ended=False)
    )


def test_a_leaving_instance_that_loses_its_consumer_later_gives_up_then() -> None:
    assert (
        flushed(seconds=10)
        << session_lost()
        >> stop(ended=False)
        >> exits(failed=False)
        >> announces("STOPPED", ended=False)
    )


def test_what_a_lost_consumer_had_is_held_again_for_the_rest_of_the_peer_timeout() -> None:
    assert (
        flushed(seconds=2)
        << session_lost()
        >> announces("DRAINING", ended=False)
        << until(2.0 + PATIENCE_S - 0.1)
        << until(2.0 + PATIENCE_S)
        >> stop(ended=False)
        >> exits(failed=False)
        >> announces("STOPPED", ended=False)
    )


def test_a_leaving_instance_that_holds_nothing_stops_at_once() -> None:
    assert (
        Playbook(Head(0))
        << until(10.0)
        << leave()
        >> close_source()
        >> announces("DRAINING", ended=False)
        >> stop(ended=False)
        >> exits(failed=False)
        >> announces("STOPPED", ended=False)
    )


@pytest.mark.parametrize("seconds", [0.5, 2.0, 4.9])
def test_a_consumer_that_comes_in_time_gets_it(seconds: float) -> None:
    assert (
        Playbook(Head(3))
        << until(10.0)
        << leave()
        >> close_source()
        >> announces("DRAINING", ended=False)
        << until(10.0 + seconds)
        << consumer_comes(10)
        >> parcel(messages=3)
        << until(10.0 + seconds + 3.0)
        >> announces("FLUSHED", ended=False)
    )


def starting(inputs: list[tuple[str, str]]) -> Stage:
    """A stage whose plugin is not open yet."""
    return Stage(Identity("p", "a", 1, "a1"), inputs, [("", "b")], StagePolicy(), 0.0, seeded_bytes("random"))


@pytest.mark.parametrize("inputs", [[], [("z", "")]], ids=["head", "inner"])
def test_an_instance_that_is_told_to_leave_before_it_is_open_stops(inputs: list[tuple[str, str]]) -> None:
    stage = starting(inputs)
    stage.turn(0.0)
    stage.handle(events.OrderGiven("leave"), 1.0)
    assert act.Stop(ended=False) in stage.turn(1.0)
    assert act.Exit(failed=False) in stage.turn(1.0 + PATIENCE_S)
    stage.handle(events.Opened(), 0.0)
    assert stage.state.value == "STOPPED"


def test_a_head_that_is_drained_before_it_is_open_closes_its_source_and_ends_once_it_is() -> None:
    stage = starting([])
    stage.handle(events.OrderGiven("drain"), 1.0)
    assert act.CloseSource() in stage.turn(1.0) and act.CloseSource() not in stage.turn(2.0)
    assert stage.state.value == "STARTING"
    stage.handle(events.Opened(), 0.0)
    stage.handle(events.SourceEnded(), 0.0)
    stage.turn(3.0)
    assert stage.state.value == "FLUSHED"


def test_a_stage_that_is_not_open_yet_sleeps_beside_an_upstream_that_is() -> None:
    """It says hello once it is open. Its plugin may take seconds for that, and needs the processor."""
    stage = starting([("z", "")])
    stage.handle(events.UpstreamConnected(("z", 1)), 0.0)
    stage.turn(0.0)
    assert stage.next_at() > 0.5
    stage.handle(events.Opened(), 0.0)
    [hello] = [one for one in stage.turn(0.5) if isinstance(one, act.Tell)]
    assert isinstance(frames.read(hello.frame), frames.Hello)
