"""Actions: what is asked before, in numbers, and that nothing is done before a yes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from screens import STATES, letters
from test_pictures import Clerk, app_of
from textual.driver import Driver

from zpipe.monitor.screen import actions


def test_questions_say_what_will_be_done_in_numbers() -> None:
    value = STATES["paused"]().value
    assert actions.pause(value, "check").title == "Pause check?"
    assert (
        "2 instances" in actions.pause(value, "check").text
        and "600 messages wait" in actions.pause(value, "check").text
    )
    one = STATES["load"]().value
    assert "1 instance starts" in actions.pause(one, "parse").text
    assert "blocked in about" in actions.pause(one, "store").text
    full = next(link for link in one["links"] if link["to"] == "store")
    full |= {"depth": full["bound"] + 1}
    assert "blocked already" in actions.pause(one, "store").text
    assert "2 of 2 instances" in actions.resume(value, "check").text
    drained = actions.drain(value)
    assert drained.grave and "600 messages" in drained.text and "6 instances stop" in drained.text
    assert "not end before check" in drained.text
    assert "not end before" not in actions.drain(STATES["idle"]().value).text
    stormy = actions.resume(STATES["storm"]().value, "check").text
    assert "60 of the last 100 messages died" in stormy and "Paused" not in stormy
    assert "not paused" in actions.resume(value, "store").text
    left = actions.leave(value, "check", 1)
    assert not left.grave and "300 messages" in left.text and "1 instance of check is left" in left.text
    assert actions.leave(value, "store", 1).grave


def test_letters_are_counted_before_they_are_replayed_or_dropped() -> None:
    rows = letters().rows
    assert actions.replay(rows).title == "Replay 30 dead letters?"
    assert "about 0.3s" in actions.replay(rows).text
    assert actions.drop(rows[:1]).grave and actions.drop(rows[:1]).title == "Drop 1 dead letter for good?"


@pytest.mark.parametrize(
    ("keys", "asked"),
    [
        ("down p y", [("pause", [("parse", None)])]),
        ("down p n", []),
        ("down r y", [("resume", [("parse", None)])]),
        ("d y", [("drain", [("read", None)])]),
        ("d enter", []),  # what cannot be taken back is not done by enter alone
        ("down right enter down L y", [("leave", [("check", 1)])]),
    ],
)
def test_keys_ask_and_a_yes_does(keys: str, asked: list[Any]) -> None:
    clerk = Clerk()

    async def play() -> None:
        app = app_of(STATES["load"](), clerk)
        async with app.run_test(size=(120, 40)) as pilot:
            for key in keys.split():
                await pilot.press(key)
                await pilot.pause()
            await app.workers.wait_for_complete()

    asyncio.run(play())
    assert clerk.asked == asked


def test_letters_are_replayed_and_dropped_by_reason_and_one_by_one() -> None:
    clerk = Clerk()

    async def play() -> None:
        app = app_of(STATES["load"](), clerk)
        async with app.run_test(size=(120, 40)) as pilot:
            for key in ["5", "wait", "down", "down", "r", "y", "down", "up", "enter", "down", "x", "y"]:
                await (app.workers.wait_for_complete() if key == "wait" else pilot.press(key))
                await pilot.pause()
            await app.workers.wait_for_complete()

    asyncio.run(play())
    (replayed, names), (dropped, one) = clerk.asked
    assert (replayed, len(names)) == ("replay", 20)
    assert (dropped, len(one)) == ("drop", 1)


def test_all_is_drawn_again_when_the_terminal_is_given_back() -> None:
    """As after ctrl+z and fg, which leave a window of the same size, but empty."""
    drawn: list[str] = []

    async def play() -> None:
        app = app_of(STATES["load"]())
        async with app.run_test(size=(120, 40)) as pilot:
            await pilot.pause()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    app, "_display", lambda _, made: drawn.append(made.render_segments(app.console) if made else "")
                )
                app.post_message(Driver.SignalResume())  # as the driver does
                await pilot.pause()

    asyncio.run(play())
    for text in ("1 Pipeline", " parse ", " store ", "what happened", "quit"):
        assert any(text in one for one in drawn), text
