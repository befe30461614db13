"""View 6: what happened, newest first. Pure."""

from __future__ import annotations

import textwrap

from zpipe.monitor.formatting import clock, visible
from zpipe.monitor.model.events import Event
from zpipe.monitor.screen.pane import Choice, Pane, Shown, View
from zpipe.monitor.table.columns import Line, width_of


def event_lines(event: Event, width: int) -> list[Line]:
    """A whole sentence: what is longer than the width goes on in the next line."""
    who, _, what = visible(event.text).partition(" ")
    style = "bad" if event.bad else ""
    start: Line = [(f"{clock(event.at)} ", "dim"), (f"{who} ", "bold")]
    first, *more = textwrap.wrap(what, max(width - width_of(start), 20), break_on_hyphens=False) or [""]
    return [[*start, (first, style)], *([(" " * width_of(start), ""), (line, style)] for line in more)]


def view(shown: Shown, choice: Choice, width: int, height: int) -> View:
    pane = Pane(head=[[(" when     who and what happened", "title")]])
    for event in reversed(shown.events):
        if not choice.passes(event.text, "bad" if event.bad else "fine"):
            continue
        for line in event_lines(event, width - 2):
            pane.add([(" ", ""), *line], f"event:{event.at}:{event.text}")
    if not pane.lines:
        nothing = (
            "nothing that the filter lets through" if choice.filter() else "nothing has happened since it was opened"
        )
        pane.add([(f" {nothing}", "dim")])
    pane.mark(choice.row.get(6, ""), width)
    return View(pane)
