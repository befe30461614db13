"""The whole screen as lines, for a size. May live here: what goes where; pure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from zpipe.monitor import rows
from zpipe.monitor.columns import Line, clip
from zpipe.monitor.controls import HELP, REPLAY_HELP, Controls
from zpipe.monitor.details import details
from zpipe.monitor.events import Event
from zpipe.monitor.glyphs import UNICODE, Glyphs
from zpipe.monitor.history import History
from zpipe.monitor.status import Table, remarks, title

KEYS = "j/k choose  enter details  s sort  p pause  r resume  d drain  h help  q quit"
REPLAY_KEYS = "left/right step  space play  +/- speed  enter details  s sort  h help  q quit"
MOST_EVENTS = 8


class Size(NamedTuple):
    width: int
    height: int


class Shown(NamedTuple):
    """What a screen is made of. `waits`: what is waited for while nothing was heard of; `clock`: the time in words."""

    value: dict[str, Any]
    history: History
    events: Sequence[Event]
    clock: str
    waits: str = ""


def screen(shown: Shown, controls: Controls, size: Size, glyphs: Glyphs = UNICODE) -> list[Line]:
    """At most `size.height` lines of at most `size.width` characters; the last one says the keys."""
    width, room = size.width, size.height - 1
    head = [*title(shown.value), (f"  {shown.clock}", "")]
    if controls.mode == "help":
        body = [[(text, "")] for text in (*HELP, *(REPLAY_HELP if controls.replay else ()))]
    elif controls.mode == "details" and controls.selected is not None:
        body = details(shown.value, controls.selected)
        controls.scroll = max(0, min(controls.scroll, len(body) - (room - 1)))
        body = body[controls.scroll :]
    else:
        body = _status(shown, controls, Size(width, room - 1), glyphs)
    lines = [clip(line, width) for line in [head, *body][:room]]
    lines += [[] for _ in range(room - len(lines))]
    return [*lines, clip(_footer(controls), width)][: size.height]


def _footer(controls: Controls) -> Line:
    if controls.mode == "confirm":
        return [
            (
                "Drain the whole pipeline? It stops when everything held is finished. y: yes, any other key: no",
                "reverse",
            )
        ]
    if controls.message:
        return [(controls.message, "reverse")]
    return [(REPLAY_KEYS if controls.replay else KEYS, "dim")]


def _status(shown: Shown, controls: Controls, size: Size, glyphs: Glyphs) -> list[Line]:
    value = shown.value
    below: list[Line] = [[(shown.waits, "yellow")]] if shown.waits else remarks(value, size.width)
    below = below[: max(2, size.height // 3)]
    tall = Table.height(value) + len(below) <= size.height
    table = Table(value, size.width, tall, controls.order, controls.selected, glyphs, shown.history)
    body = _scrolled(table, controls.selected, size.height - len(below)) + below
    left = size.height - len(body)
    if left >= 2 and shown.events:
        recent = list(shown.events)[-min(left - 1, MOST_EVENTS) :]
        body.append([("EVENTS", "bold")])
        body += [[(f"{clock(event.at)} {event.text}", "red" if event.bad else "")] for event in recent]
    return body


def _scrolled(table: Table, selected: str | None, room: int) -> list[Line]:
    """The lines around the selected stage, where there is no room for all; the head stays."""
    head, lines = table.lines[0], table.lines[1:]
    room = max(room - 1, 1)
    if len(lines) <= room:
        return table.lines
    at = table.row_of.get(selected or "", 1) - 1
    first = min(max(0, at - room // 2), len(lines) - (room - 1))
    shown = lines[first : first + room - 1]
    return [head, *shown, [(f"  {len(lines) - len(shown)} more rows: up and down", "dim")]]


def clock(at: float) -> str:
    """The time of day, as this machine's clock says it."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def order_of(value: dict[str, Any], controls: Controls) -> list[str]:
    return rows.ordered(value, controls.order)
