"""A last stage whose first call lasts until a file is there, and which notes each message after it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tally import Tally
from zpipe import Context, Message, Traits, hookimpl

LOOK_S = 0.001


@dataclass
class Options:
    gate: str
    tally: str


class _Seen:
    def __init__(self, options: Options) -> None:
        self.gate: Path | None = Path(options.gate)
        self.tally = Tally(options.tally)
        self.count = 0


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
    seen: _Seen = context.scratch
    if seen.gate is not None:
        while not seen.gate.exists():
            time.sleep(LOOK_S)
        seen.gate = None
    seen.count += 1
    seen.tally.note(seen.count)
