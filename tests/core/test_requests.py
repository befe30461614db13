"""What an operator asks for is answered, and noted with who asked."""

from __future__ import annotations

import pytest

from zpipe.core import events
from zpipe.core.actions import LogEvent, Reply
from zpipe.core.lifecycle import State
from zpipe.core.policy import StagePolicy
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.wire import frames
from zpipe.testing import seeded_bytes

UNIX = "uid 1000, pid 4321"


@pytest.mark.parametrize(
    ("what", "refused", "warning", "repeats"),
    [
        ("drain", None, True, True),
        ("leave", None, True, True),
        ("pause", None, True, True),
        ("resume", None, True, True),
        ("replay", "a source's records come from what it reads, and cannot be replayed", True, False),
        ("shutdown -h", "no such request: shutdown -h", True, False),
        ("snapshot", None, False, False),
        ("tap:5", None, False, False),
    ],
)
def test_who_asks_is_noted(what: str, refused: str | None, warning: bool, repeats: bool) -> None:
    stage = Stage(Identity("p", "read", 1, "r1"), [], [("", "store")], StagePolicy(), 0.0, seeded_bytes("random"))
    stage.handle(events.Opened(), 0.0)
    stage.handle(events.FeedbackReceived(b"route", frames.write(frames.Request(7, what)), UNIX), 0.0)
    actions = stage.turn(0.0)
    [event] = [action for action in actions if isinstance(action, LogEvent)]
    name = what.partition(":")[0]
    fields = {"what": name, "sender": UNIX, "state": "RUNNING", "refused": refused}
    assert event == LogEvent("operator.request", fields, warning, repeats)
    [answer] = [frames.read(action.frame) for action in actions if isinstance(action, Reply)]
    assert isinstance(answer, frames.Refuse if refused else frames.Done)


def told(what: str, in_session: bool = False) -> tuple[Stage, frames.Frame]:
    """A map to whose upstream nothing is connected, or all is, is asked something. The answer."""
    stage = Stage(
        Identity("p", "map", 1, "m1", "ipc:///run/z/p.map.1/inbox"),
        [("read", "")],
        [],
        StagePolicy(),
        0.0,
        seeded_bytes("random"),
    )
    stage.handle(events.Opened(), 0.0)
    stage.handle(events.UpstreamExpected(("read", 1)), 0.0)
    if in_session:
        stage.handle(events.UpstreamConnected(("read", 1)), 0.0)
        stage.turn(0.0)
        welcome = frames.Welcome(frames.VERSION, bytes(16), "r1", 1)
        stage.handle(events.UpstreamReceived(("read", 1), frames.write(welcome)), 0.0)
    stage.handle(events.FeedbackReceived(b"route", frames.write(frames.Request(7, what)), UNIX), 0.0)
    answers = [frames.read(one.frame) for one in stage.turn(0.0) if isinstance(one, Reply)]
    return stage, answers[-1]


def test_who_is_told_that_its_upstream_has_ended_ends_in_order() -> None:
    stage, answer = told("ended:read.1")
    assert isinstance(answer, frames.Done)
    assert stage.state is State.STOPPED and not stage.shutdown.leaving
    assert stage.upstreams.waiting_for() == []


@pytest.mark.parametrize(
    "what", ["ended:read.1", "ended:read", "ended:read.0", "ended:read.1001", "ended:sink.1", "ended:read.x", "ended:"]
)
def test_of_whom_it_hears_itself_or_does_not_know_nobody_need_tell(what: str) -> None:
    stage, answer = told(what, in_session=True)
    assert isinstance(answer, frames.Refuse) and answer.reason == f"no such request: {what}"
    assert stage.state is State.RUNNING and stage.upstreams.waiting_for() == ["read.1"]
