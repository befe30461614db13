"""Hello and welcome, as a consumer sees them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from session_names import SECRET, named

from zpipe.core.actions import Action, LogEvent, Tell
from zpipe.core.ledger import Counts
from zpipe.core.policy import Codec, LinkPolicy, StagePolicy
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.upstream.upstreams import Identity, SuspectedCalls, Upstreams
from zpipe.core.wire import frames
from zpipe.errors import PeerError

PEER = ("a", 1)


def make(suspects: SuspectedCalls | None = None) -> tuple[Upstreams, Inlet]:
    policy = StagePolicy()
    inlet = Inlet(policy.queue, policy.link, Counts())
    upstreams = Upstreams(Identity("p", "b", 1, "b2", "inbox"), SECRET, [("a", "")], inlet, policy, suspects)
    upstreams.connected(PEER, 0.0)
    return upstreams, inlet


def hello(actions: list[Action]) -> frames.Hello:
    [tell] = actions
    assert isinstance(tell, Tell)
    said = frames.read(tell.frame)
    assert isinstance(said, frames.Hello)
    return said


@pytest.mark.parametrize(("codec", "read"), [("msgpack", ["cbor", "msgpack"]), ("cbor", ["cbor"])])
def test_a_hello_names_the_codecs_that_are_read(codec: Codec, read: list[str]) -> None:
    policy = StagePolicy(link=LinkPolicy(codec=codec))
    inlet = Inlet(policy.queue, policy.link, Counts())
    intake = Upstreams(Identity("p", "b", 1, "b2", "inbox"), SECRET, [("a", "")], inlet, policy)
    intake.connected(PEER, 0.0)
    assert hello(intake.hellos(0.0)).codecs == read


def welcome(number: int, session: str = "s") -> frames.Welcome:
    return frames.Welcome(frames.VERSION, named(session), "a1", number)


def test_a_welcome_of_another_version_opens_nothing_and_names_both() -> None:
    upstreams, inlet = make()
    number = hello(upstreams.hellos(0.0)).number
    other = frames.Welcome(frames.VERSION + 1, named("s"), "a1", number)
    [event] = upstreams.heard(PEER, other, 0.1)
    assert isinstance(event, LogEvent) and event.event == "upstream.refuses"
    assert event.fields["reason"] == (
        f"a.1 speaks version {frames.VERSION + 1} of the protocol and this instance version {frames.VERSION}: "
        "update the older one"
    )
    assert inlet.owner(named("s")) is None
    upstreams.heard(PEER, replace(welcome(number), minor=frames.MINOR + 1), 0.2)
    assert inlet.owner(named("s")) is not None, "a later minor version is talked with"


def test_a_welcome_that_comes_again_after_the_line_is_down_opens_nothing() -> None:
    upstreams, inlet = make()
    number = hello(upstreams.hellos(0.0)).number
    upstreams.heard(PEER, welcome(number), 0.1)
    assert inlet.owner(named("s")) is not None
    upstreams.disconnected(PEER)
    upstreams.heard(PEER, welcome(number), 0.2)
    assert inlet.owner(named("s")) is None
    upstreams.connected(PEER, 0.3)
    upstreams.heard(PEER, welcome(number), 0.4)
    assert inlet.owner(named("s")) is None
    again = hello(upstreams.hellos(0.4)).number
    assert again > number
    upstreams.heard(PEER, welcome(again, "t"), 0.5)
    assert inlet.owner(named("t")) is not None


def test_suspects_are_told_until_a_session_is_open_and_never_again() -> None:
    suspects: SuspectedCalls = {("a", "", 1): ("a1", [[7, 8, 1]]), ("a", "", 2): ("x", [[1, 2, 0]])}
    upstreams, _ = make(suspects)
    for now in (0.0, 1.0, 2.0):
        said = hello(upstreams.hellos(now))
        assert (said.suspects_of, said.suspects) == ("a1", [[7, 8, 1]])
    upstreams.heard(PEER, welcome(said.number), 2.1)
    upstreams.disconnected(PEER)
    upstreams.connected(PEER, 3.0)
    said = hello(upstreams.hellos(3.0))
    assert (said.suspects_of, said.suspects) == ("", [])


def test_a_malformed_parcel_names_its_producer_and_its_kind() -> None:
    upstreams, _ = make()
    said = welcome(hello(upstreams.hellos(0.0)).number)
    upstreams.heard(PEER, said, 0.1)
    with pytest.raises(PeerError) as caught:
        upstreams.parcel(frames.Parcel(said.session, 1, [[1, 2, 1, 1, 0]]), b"x", 0.2)
    assert (caught.value.peer, caught.value.kind) == ("a.1", "parcel")


def test_two_sessions_of_one_name_are_refused_whoever_welcomes_to_the_second() -> None:
    policy = StagePolicy()
    inlet = Inlet(policy.queue, policy.link, Counts())
    upstreams = Upstreams(Identity("p", "b", 1, "b2", "inbox"), SECRET, [("a", "")], inlet, policy)
    for peer in (PEER, ("a", 2)):
        upstreams.connected(peer, 0.0)
    first, second = (frames.read(tell.frame) for tell in upstreams.hellos(0.0) if isinstance(tell, Tell))
    assert isinstance(first, frames.Hello) and isinstance(second, frames.Hello)
    upstreams.heard(PEER, welcome(first.number), 0.1)
    with pytest.raises(PeerError, match=r"welcome\.session"):
        upstreams.heard(("a", 2), welcome(second.number), 0.1)
    upstreams.disconnected(("a", 2))
    owner = inlet.owner(named("s"))
    assert owner is not None and owner.peer == PEER
    upstreams.disconnected(PEER)
    assert inlet.owner(named("s")) is None


# ---- what cannot be true, and what is refused


HEARTBEAT_S = StagePolicy().link.heartbeat_s


def opened(at: float = 0.0) -> tuple[Upstreams, Inlet]:
    """In session since `at`, with two statements made."""
    upstreams, inlet = make()
    upstreams.heard(PEER, welcome(hello(upstreams.hellos(at)).number), at)
    for _ in range(2):
        inlet.heartbeat(at)
        assert len(list(inlet.statements(at))) == 1
    return upstreams, inlet


def confirm(**more: int) -> frames.Confirm:
    fields = {"number": 1, "sequence": 0, "sent_messages": 0, "sent_bytes": 0, "lowest": 1, "need_bytes": 0}
    return frames.Confirm(session=named("s"), **fields | more)


@pytest.mark.parametrize(
    ("before", "lie", "reason"),
    [
        (confirm(), confirm(number=1 << 40), f"confirms statement {1 << 40}, of 2 made"),
        (confirm(), confirm(sent_messages=1 << 40), "more than its credit"),
        (confirm(), confirm(sent_bytes=1 << 40), "more than its credit"),
        (confirm(number=2), confirm(sequence=1), "goes back"),
        (confirm(lowest=9), confirm(number=2, lowest=8), "goes back"),
    ],
)
def test_a_confirm_that_cannot_be_true_ends_the_session_and_a_hello_heals_it(
    before: frames.Confirm, lie: frames.Confirm, reason: str
) -> None:
    upstreams, inlet = opened()
    assert upstreams.heard(PEER, before, 1.5) == []
    tell, event = upstreams.heard(PEER, lie, 2.0)
    assert isinstance(tell, Tell) and tell.peer == PEER
    refuse = frames.read(tell.frame)
    assert isinstance(refuse, frames.Refuse)
    assert refuse.session == named("s") and reason in refuse.reason
    assert event == LogEvent("session.broken", {"upstream": "a.1", "reason": refuse.reason})
    assert inlet.owner(named("s")) is None
    upstreams.heard(PEER, welcome(hello(upstreams.hellos(2.0)).number, "t"), 2.1)
    assert inlet.owner(named("t")) is not None


def test_a_late_copy_of_a_confirm_is_no_lie_and_changes_nothing() -> None:
    upstreams, inlet = opened()
    [session] = inlet.sessions
    assert upstreams.heard(PEER, confirm(number=2, lowest=5), 1.0) == []
    assert upstreams.heard(PEER, confirm(number=1, lowest=4, need_bytes=99), 1.1) == []
    assert inlet.owner(named("s")) is not None and session.bytes.need == 0
    assert upstreams.heard(PEER, confirm(number=2, lowest=5, need_bytes=99), 1.2) == []
    assert session.bytes.need == 99


def test_a_session_that_the_producer_ends_for_a_reason_is_noted() -> None:
    upstreams, inlet = opened()
    [event] = upstreams.heard(PEER, frames.Refuse(named("s"), "acks parcel 4, of 3 received", 2), 2.0)
    assert event == LogEvent("session.refused", {"upstream": "a.1", "reason": "acks parcel 4, of 3 received"})
    assert inlet.owner(named("s")) is None
    hello(upstreams.hellos(2.0))


def test_a_session_that_is_over_is_begun_anew_at_once_and_nothing_is_noted() -> None:
    upstreams, _ = opened(at=2.0)
    assert upstreams.heard(PEER, frames.Refuse(named("s"), frames.NO_SESSION, 2), 2.01) == []
    hello(upstreams.hellos(2.01))


def test_two_that_misunderstand_each_other_open_a_session_a_heartbeat() -> None:
    upstreams, _ = opened(at=2.0)
    upstreams.heard(PEER, confirm(number=1 << 40), 2.01)
    assert upstreams.hellos(2.01) == [] and upstreams.next_at() == 2.0 + HEARTBEAT_S
    hello(upstreams.hellos(2.0 + HEARTBEAT_S))


def test_a_refused_hello_is_noted() -> None:
    upstreams, _ = make()
    number = hello(upstreams.hellos(0.0)).number
    [event] = upstreams.heard(PEER, frames.Refuse(b"", "pipeline 'x': this is 'p'", number), 0.1)
    assert event == LogEvent("upstream.refuses", {"upstream": "a.1", "reason": "pipeline 'x': this is 'p'"})
    assert upstreams.heard(PEER, frames.Refuse(b"", "of another hello", number + 1), 0.2) == []


def test_hellos_show_the_secret() -> None:
    upstreams, _ = make()
    assert hello(upstreams.hellos(0.0)).secret == SECRET
