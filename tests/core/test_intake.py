"""Hello and welcome, as a consumer sees them."""

from __future__ import annotations

import pytest

from zpipe.core import wire
from zpipe.core.actions import Action, Tell
from zpipe.core.inlet import Inlet
from zpipe.core.intake import Intake, Self, Suspects
from zpipe.core.ledger import Counts
from zpipe.core.policy import StagePolicy
from zpipe.errors import PeerError

PEER = ("a", 1)


def make(suspects: Suspects | None = None) -> tuple[Intake, Inlet]:
    policy = StagePolicy()
    inlet = Inlet(policy.queue, policy.link, Counts())
    intake = Intake(Self("p", "b", 1, "b2", "inbox"), [("a", "")], inlet, policy, suspects)
    intake.connected(PEER, 0.0)
    return intake, inlet


def hello(actions: list[Action]) -> wire.Hello:
    [tell] = actions
    assert isinstance(tell, Tell)
    said = wire.read(tell.frame)
    assert isinstance(said, wire.Hello)
    return said


def welcome(number: int, session: str = "s") -> wire.Welcome:
    return wire.Welcome(1, session, "a1", number)


def test_a_welcome_that_comes_again_after_the_line_is_down_opens_nothing() -> None:
    intake, inlet = make()
    number = hello(intake.hellos(0.0)).number
    intake.heard(PEER, welcome(number), 0.1)
    assert inlet.owner("s") is not None
    intake.disconnected(PEER)
    intake.heard(PEER, welcome(number), 0.2)
    assert inlet.owner("s") is None
    intake.connected(PEER, 0.3)
    intake.heard(PEER, welcome(number), 0.4)
    assert inlet.owner("s") is None
    again = hello(intake.hellos(0.4)).number
    assert again > number
    intake.heard(PEER, welcome(again, "t"), 0.5)
    assert inlet.owner("t") is not None


def test_suspects_are_told_until_a_session_is_open_and_never_again() -> None:
    suspects: Suspects = {("a", "", 1): ("a1", [[7, 8, 1]]), ("a", "", 2): ("x", [[1, 2, 0]])}
    intake, _ = make(suspects)
    for now in (0.0, 1.0, 2.0):
        said = hello(intake.hellos(now))
        assert (said.suspects_of, said.suspects) == ("a1", [[7, 8, 1]])
    intake.heard(PEER, welcome(said.number), 2.1)
    intake.disconnected(PEER)
    intake.connected(PEER, 3.0)
    said = hello(intake.hellos(3.0))
    assert (said.suspects_of, said.suspects) == ("", [])


def test_a_malformed_parcel_names_its_producer_and_its_kind() -> None:
    intake, _ = make()
    said = welcome(hello(intake.hellos(0.0)).number)
    intake.heard(PEER, said, 0.1)
    with pytest.raises(PeerError) as caught:
        intake.parcel(wire.Parcel(said.session, 1, [[1, 2, 1, 1, 0]]), b"x", 0.2)
    assert (caught.value.peer, caught.value.kind) == ("a.1", "parcel")
