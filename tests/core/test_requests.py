"""What an operator asks for is answered, and noted with who asked."""

from __future__ import annotations

import pytest

from zpipe.core.actions import LogEvent, Reply
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
    stage.opened()
    stage.feedback_received(b"route", frames.write(frames.Request(7, what)), 0.0, UNIX)
    actions = stage.turn(0.0)
    [event] = [action for action in actions if isinstance(action, LogEvent)]
    name = what.partition(":")[0]
    fields = {"what": name, "sender": UNIX, "state": "RUNNING", "refused": refused}
    assert event == LogEvent("operator.request", fields, warning, repeats)
    [answer] = [frames.read(action.frame) for action in actions if isinstance(action, Reply)]
    assert isinstance(answer, frames.Refuse if refused else frames.Done)
