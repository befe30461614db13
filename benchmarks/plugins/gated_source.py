"""A source that begins when a file is there: so everybody else can be ready before the first message."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tally import Tally
from zpipe import Context, hookimpl

LOOK_S = 0.005


@dataclass
class Options:
    """gate: the file;  began: a tally that gets the moment of the first message;  hold: the file that it ends for"""

    gate: str
    count: int
    began: str = ""
    hold: str = ""


@hookimpl
def zpipe_options() -> type:
    return Options


@hookimpl
def zpipe_source(context: Context) -> Iterator[tuple[int, dict[str, int]]]:
    options: Options = context.options
    _wait_for(Path(options.gate), context)
    if options.began:
        Tally(options.began).note(0)
    for n in range(options.count):
        if context.stopping.is_set():
            return
        yield n, {"id": n}
    if options.hold:
        _wait_for(Path(options.hold), context)


def _wait_for(file: Path, context: Context) -> None:
    while not file.exists() and not context.stopping.wait(LOOK_S):
        pass
