"""Following a tap: what it is shown, message by message, as it comes, and printing that.

May live here: when to read and when it is over. What is read comes from a Feed, which the command brings; what a message looks
like is `passing`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

import click

from zpipe.core.wire import frames
from zpipe.errors import OperatorError
from zpipe.monitor.messages.messages_seen import SeenMessage, SeenMessages

TURN_S = 0.1


class Feed(Protocol):
    @property
    def heard(self) -> Collection[tuple[str, int]]:
        """Instances that have answered."""

    @property
    def over(self) -> bool:
        """Every one of them has stopped."""

    def missing(self) -> OperatorError:
        """The error that says who does not answer, and where it was looked for."""

    def poll(self, timeout_s: float) -> list[frames.Tap]:
        """Asks to be shown what passes, waits at most so long, and gives what was."""


def follow(feed: Feed, passings: SeenMessages, wait_s: float) -> Iterator[SeenMessage]:
    """Each message that is to be shown, until every instance has stopped. Blocks between.

    Raises NoPeerError if no instance answers within `wait_s`, OperatorError if this user may not look for them.
    """
    deadline = time.monotonic() + wait_s
    while not feed.over:
        for frame in feed.poll(TURN_S):
            yield from passings.take(frame, time.time(), time.monotonic())
        if not feed.heard and time.monotonic() > deadline:
            raise feed.missing()


def printer(as_json: bool, terminal: bool) -> Callable[[SeenMessage], None]:
    """Prints a message to stdout: a line of JSON, or a heading and the payload, in colour on a terminal that wants it."""
    if as_json:
        return lambda passing: click.echo(passing.as_json())
    if not terminal:
        return lambda passing: click.echo(f"{passing.heading()}\n{passing.body()}")
    from rich.console import Console
    from rich.text import Text

    console = Console()
    return lambda passing: console.print(
        Text.assemble((passing.heading(), "bold cyan"), "\n", passing.body()), soft_wrap=True
    )
