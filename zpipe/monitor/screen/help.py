"""The help of the screen: what its keys do and what its columns mean. Must not live here: doing any of it."""

from __future__ import annotations

from collections.abc import Iterator

from zpipe.monitor.screen.controls import LEAVING, LOOKING, MEANINGS, OPERATING, REPLAYING
from zpipe.monitor.table.columns import Line, wrap

KEYS_WIDTH = 17
BESIDE = 3 * KEYS_WIDTH
"""From this width on keys and what they do stand beside each other."""


def help_lines(replay: bool, width: int) -> list[Line]:
    keys = [
        line
        for key, what in (*LOOKING, *(REPLAYING if replay else OPERATING), *LEAVING)
        for line in _of(key, what, width)
    ]
    return [*keys, [], *(line for column, what in MEANINGS for line in _of(column, what, width))]


def _of(keys: str, what: str, width: int) -> Iterator[Line]:
    if width < BESIDE:
        yield from wrap(f"{keys}: {what}", width)
        return
    head = keys.ljust(KEYS_WIDTH)
    for line in wrap(what, width - KEYS_WIDTH, indent=""):
        yield [(head, ""), *line]
        head = " " * KEYS_WIDTH
