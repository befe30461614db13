"""A source that begins when a file is there: so everybody else can be ready before the first message."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zpipe import Context, hookimpl

LOOK_S = 0.005


@dataclass
class Options:
    gate: str
    count: int


@hookimpl
def zpipe_options() -> type:
    return Options


@hookimpl
def zpipe_source(context: Context) -> Iterator[tuple[int, dict[str, int]]]:
    gate = Path(context.options.gate)
    while not gate.exists() and not context.stopping.wait(LOOK_S):
        pass
    for n in range(context.options.count):
        if context.stopping.is_set():
            return
        yield n, {"id": n}
