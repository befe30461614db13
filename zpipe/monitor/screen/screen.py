"""The whole screen as lines, for a size: the status or details, the help, the footer. Must not live here: the terminal.

What has to be read is whole at every size: sentences are broken into lines, and what is longer than the window can be moved.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from zpipe.monitor.model.events import Event
from zpipe.monitor.screen.controls import LEAVING, LOOKING, MEANINGS, OPERATING, REPLAYING, Controls
from zpipe.monitor.screen.details import details
from zpipe.monitor.table.columns import HANGS, Line, clip, plain, wrap
from zpipe.monitor.table.glyphs import UNICODE, Glyphs
from zpipe.monitor.table.pipeline_status import RateHistory, StatusTable, remarks, title

MOST_EVENTS = 8
LEAST_TABLE = 4
"""Lines that long remarks leave to the table: its heads, two rows, and how many more there are."""
TALL = 10
"""From this height on the first line may take two."""
KEYS_WIDTH = 17
BESIDE = 3 * KEYS_WIDTH
"""From this width on keys and what they do stand beside each other."""

KEYS = ("j/k choose", "enter details", "s sort", "p pause", "r resume", "d drain", "h help", "q quit")
REPLAY_KEYS = ("left/right step", "space play", "+/- speed", "enter details", "s sort", "h help", "q quit")
NO_KEYS = "Ctrl-C quits; no keys, since stdin is no terminal"
BETWEEN = "  "
QUESTIONS = (
    "Drain the whole pipeline? It stops when everything held is finished. y: yes, any other key: no",
    "Drain the whole pipeline? y: yes, other keys: no",
    "Drain all? y/n",
)
"""The first of them that the window has room for is asked."""


class Size(NamedTuple):
    width: int
    height: int


class Shown(NamedTuple):
    """What a screen is made of. `waits`: what is waited for while nothing was heard of; `clock`: the time in words."""

    value: dict[str, Any]
    history: RateHistory
    events: Sequence[Event]
    clock: str
    waits: str = ""


def screen(shown: Shown, controls: Controls, size: Size, glyphs: Glyphs = UNICODE) -> list[Line]:
    """`size.height` lines of at most `size.width` characters; the last ones say the keys, ask, or answer."""
    width, height = size
    foot = footer(controls, width, height)
    head = _head(shown, width)[: 2 if height >= TALL else 1]
    room = max(height - len(foot) - len(head), 0)
    if controls.mode == "help":
        body = _window(help_lines(controls.replay, width), controls, room)
    elif controls.mode == "details" and controls.selected is not None:
        body = _window(details(shown.value, controls.selected, width), controls, room)
    else:
        body = _status(shown, controls, Size(width, room), glyphs)
    above = [clip(line, width) for line in [*head, *body]][: height - len(foot)]
    return [*above, *([[]] * (height - len(foot) - len(above))), *foot]


def _head(shown: Shown, width: int) -> list[Line]:
    """One line if that is enough: the pipeline, the time, how far it is."""
    name, *progress = title(shown.value)
    line = [name, (f"  {shown.clock}", ""), *progress]
    text = "".join(part for part, _ in line)
    return [line] if len(text) <= width else wrap(text, width, "bold")


def _window(lines: list[Line], controls: Controls, room: int) -> list[Line]:
    """As many as there is room for, from where the user has moved them to; the last one says that there are more."""
    if len(lines) <= room:
        controls.scroll = 0
        return lines
    shown = max(room - 1, 1)
    controls.scroll = first = max(0, min(controls.scroll, len(lines) - shown))
    where: Line = [(f"lines {first + 1}-{first + shown} of {len(lines)}: up, down", "dim")]
    return [*lines[first : first + shown], where][:room]


def _status(shown: Shown, controls: Controls, size: Size, glyphs: Glyphs) -> list[Line]:
    value = shown.value
    below = wrap(shown.waits, size.width, "yellow") if shown.waits else remarks(value, size.width)
    tall = StatusTable.height(value) + len(below) <= size.height
    table = StatusTable(value, size.width, tall, controls.order, controls.selected, glyphs, shown.history)
    least = min(LEAST_TABLE, len(table.lines))
    below = _fitted(below, max(size.height - least, 0), glyphs)
    body = _scrolled(table, controls.selected, size.height - len(below)) + below
    left = size.height - len(body)
    if left >= 2 and shown.events:
        recent = list(shown.events)[-min(left - 1, MOST_EVENTS) :]
        body.append([("EVENTS", "bold")])
        body += [[_event(event, size.width, glyphs)] for event in recent]
    return body


def _event(event: Event, width: int, glyphs: Glyphs) -> tuple[str, str]:
    first, *more = wrap(f"{clock(event.at)} {event.text}", width - 1)
    text = plain(first) + (glyphs.ellipsis if more else "")
    return text, "red" if event.bad else ""


def _fitted(lines: list[Line], room: int, glyphs: Glyphs) -> list[Line]:
    """What is too much is left out before the last sentence, which says what holds the pipeline up, and what to do."""
    if len(lines) <= room:
        return lines
    last = next((at for at in range(len(lines) - 1, 0, -1) if not lines[at][0][0].startswith(" ")), 0)
    notes, verdict = lines[:last], lines[last:]
    kept = room - len(verdict) - 1
    if kept >= 0:
        return [*notes[:kept], [(f"({len(notes) - kept} more lines: in the details)", "dim")], *verdict]
    return [*verdict[: max(room - 1, 0)], [(glyphs.ellipsis, "dim")]][:room]


def _scrolled(table: StatusTable, selected: str | None, room: int) -> list[Line]:
    """The lines around the selected stage, where there is no room for all; the head stays."""
    head, lines = table.lines[0], table.lines[1:]
    if len(lines) < room:
        return table.lines
    at = table.row_of.get(selected or "", 1) - 1
    if room <= 2:
        return [head, lines[at]][2 - room :] if room > 0 else []
    kept = room - 2
    first = max(0, min(at - kept // 2, len(lines) - kept))
    return [head, *lines[first : first + kept], [(f"  {len(lines) - kept} more rows: up and down", "dim")]]


def clock(at: float) -> str:
    """The time of day, as this machine's clock says it."""
    return time.strftime("%H:%M:%S", time.localtime(at))


# ---- the help


def help_lines(replay: bool, width: int) -> list[Line]:
    keys = [
        line
        for key, what in (*LOOKING, *(REPLAYING if replay else OPERATING), *LEAVING)
        for line in _help_of(key, what, width)
    ]
    return [*keys, [], *(line for column, what in MEANINGS for line in _help_of(column, what, width))]


def _help_of(keys: str, what: str, width: int) -> Iterator[Line]:
    if width < BESIDE:
        yield from wrap(f"{keys}: {what}", width)
        return
    head = keys.ljust(KEYS_WIDTH)
    for line in wrap(what, width - KEYS_WIDTH, indent=""):
        yield [(head, ""), *line]
        head = " " * KEYS_WIDTH


# ---- the last lines


def footer(controls: Controls, width: int, height: int) -> list[Line]:
    """At most `height` lines of at most `width` characters."""
    if controls.mode == "confirm":
        for question in QUESTIONS:
            lines = wrap(question, width, "reverse", indent="")
            if len(lines) <= height - 2:
                return lines
        return lines[:height]
    if controls.message:
        lines = wrap(controls.message, width, "reverse", indent="" if width < 2 * HANGS else "  ")
        return lines[: max(height - 2, 1)]
    if not controls.keys:
        return [clip([(NO_KEYS, "dim")], width)][:height]
    return [clip([(keys(REPLAY_KEYS if controls.replay else KEYS, width), "dim")], width)][:height]


def keys(words: Sequence[str], width: int) -> str:
    """All in one line: where there is no room for what they do, the keys alone. The last two are help and quit."""
    *others, helps, leaves = words
    bare = " ".join(word.split()[0] for word in others)
    forms = (BETWEEN.join(words), BETWEEN.join([bare, helps, leaves]), BETWEEN.join([helps, leaves]), leaves)
    return next((form for form in forms if len(form) <= width), leaves)
