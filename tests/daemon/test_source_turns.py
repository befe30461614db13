"""A message that a source yields while the loop waits: whether it leaves on the source's thread, and when the loop is woken."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from zpipe.core.actions import SendParcel
from zpipe.daemon.loop import Loop
from zpipe.daemon.mailbox import Mailbox

NOTHING: Any = SimpleNamespace(write=None, worker_drives=False, turn=lambda now: now)
"""A part that is not used here."""


class Parts:
    """A loop with the parts that such a turn touches; they note what is asked of them.

    quiet  the stage would only pass on: before it is fed, after that, and after it has passed on
    """

    def __init__(self, *quiet: bool) -> None:
        self.said: list[Any] = []
        self._quiet = list(quiet)
        self.mailbox = Mailbox()
        self.mailbox.asleep = True
        others = [NOTHING] * 6
        self.loop = Loop(
            *(cast(Any, self), cast(Any, self), self.mailbox, NOTHING, cast(Any, self)),
            *(*others, [NOTHING], {}, logging.getLogger("zpipe"), NOTHING, NOTHING, NOTHING),
        )

    @property
    def woken(self) -> bool:
        return not self.mailbox.asleep

    def only_passes_on(self, now: float) -> bool:
        return self._quiet.pop(0) if len(self._quiet) > 1 else self._quiet[0]

    def feed(self, now: float) -> None:
        self.said.append("fed")

    def pass_on(self, now: float) -> list[SendParcel]:
        return [SendParcel(b"session", b"header", b"body")]

    def send_parcel(self, session: bytes, header: bytes, body: bytes) -> bool:
        self.said.append((session, header, body))
        return True

    def note_sent(self) -> None:
        self.said.append("sent")


SENT = ["fed", (b"session", b"header", b"body"), "sent"]


@pytest.mark.parametrize(
    ("quiet", "said", "woken"),
    [
        ((True,), SENT, False),
        ((True, True, False), SENT, True),
        ((True, False), ["fed"], True),
        ((False,), [], True),
    ],
    ids=["it is sent", "and leaves something to do", "it brings something else to do", "something else is to be done"],
)
def test_the_loop_is_woken_if_there_is_more_to_do(quiet: tuple[bool, ...], said: list[Any], woken: bool) -> None:
    parts = Parts(*quiet)
    parts.loop.turn_for_source()
    assert (parts.said, parts.woken) == (said, woken)


def test_while_the_loop_is_in_a_turn_it_is_left_to_it() -> None:
    parts = Parts(True)
    assert parts.loop._turn_lock is not None
    with parts.loop._turn_lock:
        parts.loop.turn_for_source()
    assert (parts.said, parts.woken) == ([], True)
    parts.mailbox.asleep = True
    parts.loop.turn_for_source()
    assert (parts.said, parts.woken) == (SENT, False)


def test_a_forked_child_sends_nothing() -> None:
    for held in (False, True):
        parts = Parts(True)
        assert parts.loop._turn_lock is not None
        if held:  # as if the loop was in a turn at the moment of the fork
            parts.loop._turn_lock.acquire()
        parts.loop.leave_to_parent()
        parts.loop.turn_for_source()
        assert parts.said == []


def test_what_a_turn_raises_ends_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(True)
    monkeypatch.setattr(parts, "pass_on", lambda now: 1 / 0)
    monkeypatch.setattr(parts, "watch_fd", lambda fd, each_write: None, raising=False)
    parts.loop.turn_for_source()
    assert parts.woken
    with pytest.raises(ZeroDivisionError):
        parts.loop.run()


def test_after_what_a_turn_raises_the_loop_does_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop was waiting within its own turn: the rest of that would go on with what the other turn has left half done."""
    parts = Parts(True)
    monkeypatch.setattr(parts, "pass_on", lambda now: 1 / 0)

    def poll(timeout_s: float, turn_lock: Any) -> list[Any]:
        parts.loop.turn_for_source()
        return []

    for name, method in (("poll", poll), ("turn", float), ("next_at", float)):
        monkeypatch.setattr(parts, name, method, raising=False)
    assert parts.loop._turn()
    assert parts.said == ["fed"]
