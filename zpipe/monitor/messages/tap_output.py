"""Following a tap: reading what it is sent, and printing each message as it comes.

Must not live here: sockets (the command brings a TapFeed), and what a message looks like (`tapped_messages`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

import click

from zpipe.core.wire import frames
from zpipe.errors import OperatorError
from zpipe.monitor.messages.tapped_messages import TappedMessage, TappedMessages

TURN_S = 0.1


class TapFeed(Protocol):
    @property
    def heard(self) -> Collection[tuple[str, int]]:
        """The instances that have answered."""

    @property
    def over(self) -> bool:
        """Whether every one of them has stopped."""

    def missing(self) -> OperatorError:
        """The error that says who does not answer, and where it was looked for."""

    def poll(self, timeout_s: float) -> list[frames.Tap]:
        """Asks for what passes, waits at most so long for it, and returns what came."""


def follow_tap(feed: TapFeed, tapped_messages: TappedMessages, wait_s: float) -> Iterator[TappedMessage]:
    """Each message that is to be shown, until every instance has stopped. Blocks between.

    Raises NoPeerError if no instance answers within `wait_s`, OperatorError if this user may not look for them.
    """
    deadline = time.monotonic() + wait_s
    while not feed.over:
        for frame in feed.poll(TURN_S):
            yield from tapped_messages.take(frame, time.time(), time.monotonic())
        if not feed.heard and time.monotonic() > deadline:
            raise feed.missing()


def printer(as_json: bool, terminal: bool) -> Callable[[TappedMessage], None]:
    """Prints a message to stdout: a line of JSON, or a heading and the payload, in colour on a terminal that wants it."""
    if as_json:
        return lambda seen: click.echo(seen.as_json())
    if not terminal:
        return lambda seen: click.echo(f"{seen.heading()}\n{seen.body()}")
    from rich.console import Console
    from rich.text import Text

    console = Console()
    return lambda seen: console.print(Text.assemble((seen.heading(), "bold cyan"), "\n", seen.body()), soft_wrap=True)
