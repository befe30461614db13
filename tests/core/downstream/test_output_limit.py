"""How far a source may read."""

from __future__ import annotations

from session_names import SECRET

from zpipe.core import events
from zpipe.core.actions import Action, LimitOutputs, OpenSession, SendParcel
from zpipe.core.downstream.downstream import Downstream
from zpipe.core.downstream.outlet import Outlet
from zpipe.core.downstream.output_limit import OutputLimit
from zpipe.core.ledger import Derivation
from zpipe.core.policy import MIB, Bound, LinkPolicy, StagePolicy
from zpipe.core.source_positions import SourcePositions
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.wire import frames, section
from zpipe.core.work.task import Chunk
from zpipe.testing.node import seeded_bytes

POLICY = StagePolicy(unacked=Bound(400, MIB))  # a step is 100


class Head:
    """A head whose messages wait in its outlet until they are taken from it."""

    def __init__(self) -> None:
        self.source = SourcePositions()
        self.downstream = Downstream([Outlet("", "work", POLICY.link)], POLICY)
        self.limit = OutputLimit(POLICY, self.source)

    def give(self, count: int) -> None:
        derivation = Derivation([self.source.emit(0, count)])
        self.downstream.offer([Chunk("", count, b".")], derivation)

    def take(self, count: int) -> None:
        outlet = self.downstream.links[0]
        outlet.unsent_messages -= count
        outlet.acked += count
        self.downstream.dispatch(0.0)  # whoever takes messages from an outlet has them counted anew

    def told(self) -> list[int]:
        return [action.limit for action in self.limit.update(self.downstream, True) if isinstance(action, LimitOutputs)]


def test_a_source_far_from_its_limit_is_told_of_room_in_steps() -> None:
    head = Head()
    assert head.told() == [400]
    head.give(200)
    head.take(99)
    assert head.told() == []
    head.take(1)
    assert head.told() == [500]


def test_a_source_that_is_awake_may_use_up_all_room() -> None:
    head = Head()
    head.told()
    head.give(301)
    head.take(10)
    assert head.told() == [410]
    head.give(108)
    head.take(1)
    assert head.told() == [411]


def test_a_source_that_waits_is_woken_for_a_step_at_least() -> None:
    head = Head()
    head.told()
    head.give(400)
    head.take(99)
    assert head.told() == []
    head.take(1)
    assert head.told() == [500]


def _limits(actions: list[Action]) -> list[int]:
    return [action.limit for action in actions if isinstance(action, LimitOutputs)]


def test_a_source_that_stands_still_hears_of_room_in_the_turn_that_makes_it() -> None:
    """Sending makes room, and until the next statement nothing else may happen that would tell it."""
    policy = StagePolicy(link=LinkPolicy(unsent_messages=400))
    stage = Stage(Identity("p", "read", 1, "a1"), [], [("", "work")], policy, 0.0, seeded_bytes("random"))
    stage.handle(events.Opened(), 0.0)
    assert _limits(stage.turn(0.0)) == [400]
    inbox = "ipc:///run/zpipe/p.work.1/inbox.sock"
    hello = frames.Hello(frames.VERSION, "p", "work", 1, "b1", SECRET, "", "read", inbox, 1, 100, "", [])
    stage.handle(events.FeedbackReceived(b"route", frames.write(hello), "uid 0, pid 1"), 0.0)
    [session] = [action.session for action in stage.turn(0.0) if isinstance(action, OpenSession)]
    stage.handle(events.SessionReady(session), 0.0)
    said = frames.Statement(session, 1, 1000, MIB, 0, 0, 0, [], [], [], 0.0, False, False, False)
    stage.handle(events.FeedbackReceived(b"route", frames.write(said), "uid 0, pid 1"), 0.0)
    stage.turn(0.0)
    body = section.encode([str(n) for n in range(200)], [0.0] * 200, [None] * 200, None)
    stage.handle(events.SourceYielded([Chunk("", 200, body)] * 2, 399, 400, []), 0.0)
    turn = stage.turn(0.0)
    assert [type(action) for action in turn[:2]] == [SendParcel, LimitOutputs]
    assert _limits(turn) == [800]
