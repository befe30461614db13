"""Actions: what is asked before, in numbers, and that nothing is done before a yes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from screens import STATES, letters, many
from test_pictures import Clerk, Still, app_of
from textual.driver import Driver
from textual.widgets._footer import FooterKey

from zpipe.monitor.screen import actions
from zpipe.monitor.screen.app import MonitorApp
from zpipe.monitor.screen.canvas import Canvas
from zpipe.monitor.screen.pane import Replay


def test_questions_say_what_will_be_done_in_numbers() -> None:
    value = STATES["paused"]().value
    assert actions.pause(value, "check").title == "Pause check?"
    assert (
        "2 instances" in actions.pause(value, "check").text
        and "600 messages wait" in actions.pause(value, "check").text
    )
    one = STATES["load"]().value
    assert "1 instance starts" in actions.pause(one, "parse").text
    assert "wait for it" not in actions.pause(one, "read").text, "nothing can wait for a source"
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


def footer_of(app: MonitorApp, size: tuple[int, int], keys: str = "") -> tuple[str, int]:
    """What the last line offers, and how far it reaches."""
    found: list[tuple[str, int]] = []

    async def play() -> None:
        async with app.run_test(size=size) as pilot:
            for key in keys.split():
                await pilot.press(key)
            await pilot.pause()
            offered = [one for one in app.query(FooterKey) if one.display]
            found.append((" ".join(one.description for one in offered), max(one.region.right for one in offered)))

    asyncio.run(play())
    return found[0]


def test_a_recording_offers_nothing_that_cannot_be_asked_of_it_and_says_so_of_a_key() -> None:
    shown = STATES["load"]()._replace(replay=Replay(42.0, 90.0, 2.0, True))
    for view in "123456":
        offered, _ = footer_of(MonitorApp(Still(shown), shown.config, None), (120, 40), view)
        assert not {"tap", "pause", "resume", "replay", "drop", "edit", "drain"} & set(offered.split()), offered
        assert "play/stop" in offered and "help" in offered
    offered, _ = footer_of(app_of(STATES["load"]()), (120, 40))
    assert {"tap", "pause", "resume", "drain"} <= set(offered.split())


@pytest.mark.parametrize("view", "123456")
def test_the_footer_is_whole_on_a_narrow_screen(view: str) -> None:
    offered, reaches = footer_of(app_of(STATES["load"]()), (80, 24), view)
    assert reaches <= 80, offered
    assert ("list" in offered) == (view == "1") and ("legend" in offered) == (view == "2")


def test_end_goes_to_the_end_and_shows_it_though_nothing_was_chosen() -> None:
    async def play() -> None:
        app = app_of(many())
        async with app.run_test(size=(80, 24)) as pilot:
            for key in ("down", "right", "enter", "end"):
                await pilot.press(key)
            await pilot.pause()
            app.redraw()
            await pilot.pause()
            main = app.query_one("#main", Canvas)
            chosen = main.pane.region("instance:work.64")
            assert app.choice.row[3] == "instance:work.64" and chosen is not None
            room = main.scrollable_content_region.height - len(main.pane.head)
            assert main.scroll_offset.y <= chosen.y < main.scroll_offset.y + room
            assert not main.show_horizontal_scrollbar

    asyncio.run(play())


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
