"""View 6: what happened, newest first. Pure."""

from __future__ import annotations

import textwrap

from zpipe.monitor.formatting import clock, visible
from zpipe.monitor.model.events import Event
from zpipe.monitor.screen.pane import Choice, Pane, Shown, View
from zpipe.monitor.table.columns import Line


def event_line(event: Event) -> Line:
    who, _, what = visible(event.text).partition(" ")
    return [(f"{clock(event.at)} ", "dim"), (f"{who} ", "bold"), (what, "bad" if event.bad else "")]


def view(shown: Shown, choice: Choice, width: int, height: int) -> View:
    """Whole sentences: what is longer than the window goes on in the next line."""
    pane = Pane(head=[[(" when     who and what happened", "title")]])
    for event in reversed(shown.events):
        if not choice.passes(event.text, "bad" if event.bad else "fine"):
            continue
        who, _, what = visible(event.text).partition(" ")
        lines = textwrap.wrap(what, max(width - 12 - len(who), 20)) or [""]
        key = f"event:{event.at}:{event.text}"
        start: Line = [(" ", ""), (f"{clock(event.at)} ", "dim"), (f"{who} ", "bold")]
        for at, line in enumerate(lines):
            lead = start if at == 0 else [(" " * (11 + len(who)), "")]
            pane.add([*lead, (line, "bad" if event.bad else "")], key)
    if not pane.lines:
        nothing = (
            "nothing that the filter lets through" if choice.filter() else "nothing has happened since it was opened"
        )
        pane.add([(f" {nothing}", "dim")])
    pane.mark(choice.row.get(6, ""), width)
    return View(pane)
