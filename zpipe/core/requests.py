"""What an operator may ask of an instance over its feedback socket, and the answer. May live here: that list, no doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zpipe.core.actions import TakeLetters
from zpipe.core.wire import frames

if TYPE_CHECKING:
    from zpipe.core.stage import Stage

LOOKS = frozenset({"snapshot", "tap"})
"""Requests that change nothing of what the instance does."""


def answer(stage: Stage, request: frames.Request, now: float) -> frames.Done | frames.Refuse:
    """Has the stage do what is asked, and says in which state it is then, or why it is not done.

    Every request describes a state, so asking twice changes nothing: an operator whose answer was lost asks again.
    """
    match request.what:
        case "drain" if stage.upstreams.head:
            stage.drain()
        case "drain":
            return frames.Refuse(b"", "a drain begins at a head stage", request.number)
        case "leave":
            stage.leave(now)
        case "pause" | "resume":
            stage.pause(request.what == "pause")
        case "replay" if stage.upstreams.head:
            return frames.Refuse(
                b"", "a source's records come from what it reads, and cannot be replayed", request.number
            )
        case "replay":
            stage.order(TakeLetters())
        case "snapshot":
            stage.snapshot_now(now)
        case what if (
            (rate := what.removeprefix("tap:")) != what and rate.isascii() and rate.isdigit() and len(rate) < 10
        ):
            stage.tap.ask(int(rate), now)
        case _:
            return frames.Refuse(b"", f"no such request: {request.what}"[:200], request.number)
    return frames.Done(request.number, stage.state.value)
