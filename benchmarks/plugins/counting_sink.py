"""A last stage that notes in a tally what has arrived."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.tally import Tally
from zpipe import Context, Message, Traits, hookimpl


@dataclass
class Options:
    """stride: it notes every so many messages; timed: with their age"""

    tally: str
    stride: int
    timed: bool


class _Seen:
    """`left`: messages until the next note."""

    __slots__ = ("count", "left", "options", "tally")

    def __init__(self, options: Options) -> None:
        self.options = options
        self.tally = Tally(options.tally)
        self.count, self.left = 0, options.stride


@hookimpl
def zpipe_options() -> type:
    return Options


@hookimpl
def zpipe_traits() -> Traits:
    return Traits(is_sink=True)


@hookimpl
def zpipe_open(context: Context) -> None:
    context.scratch = _Seen(context.options)


@hookimpl
def zpipe_process(message: Message, context: Context) -> None:
    seen = context.scratch
    seen.left -= 1
    if not seen.left:
        options: Options = seen.options
        seen.left = options.stride
        seen.count += options.stride
        seen.tally.note(seen.count, time.time() - message.origin if options.timed else None)


@hookimpl
def zpipe_process_batch(messages: list[Message], context: Context) -> None:
    seen = context.scratch
    seen.count += len(messages)
    seen.tally.note(seen.count)
