"""How far a source may read."""

from __future__ import annotations

from zpipe.core.actions import LimitOutputs
from zpipe.core.downstream.downstream import Downstream
from zpipe.core.downstream.outlet import Outlet
from zpipe.core.downstream.output_limit import OutputLimit
from zpipe.core.ledger import Derivation
from zpipe.core.policy import MIB, Bound, StagePolicy
from zpipe.core.source_positions import SourcePositions
from zpipe.core.work.task import Chunk

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
