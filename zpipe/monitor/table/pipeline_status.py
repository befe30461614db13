"""The status of a pipeline as lines, for a width and height: its stages, its links, what holds it up, what is missing. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zpipe.monitor.formatting import count, share, spelled
from zpipe.monitor.model.link import buffer_faults
from zpipe.monitor.table import rows
from zpipe.monitor.table.columns import Column, Line, Span, clip, fit, lay, wrap
from zpipe.monitor.table.glyphs import UNICODE, Glyphs

MARK = 2
"""Columns before a row, which show whether it is the bottleneck (*)."""


def title(value: dict[str, Any]) -> Line:
    """The pipeline's name, and how far its sources are."""
    line: Line = [(value["pipeline"], "bold")]
    for name, stage in value["stages"].items():
        progress = stage.get("progress")
        if progress and progress["total"]:
            done, total = progress["finished"], progress["total"]
            line.append((f"  {name} {share(done / total)} ({count(done)} of {count(total)} finished)", "bold"))
    return line


def remarks(value: dict[str, Any], width: int) -> list[Line]:
    """Who is missing, and the bottleneck with what to do, in plain sentences."""
    found: list[Line] = []
    bottleneck = value["bottleneck"]
    said = bottleneck["stage"] if bottleneck and bottleneck["kind"] == "held" else None
    down = bottleneck["stage"] if bottleneck and bottleneck["kind"] == "down" else None
    for name, stage in value["stages"].items():
        missing = [f"{name}.{instance}" for instance in stage["absent"]] if stage["instances"] else []
        unheard = [f"{name}.{instance}" for instance in stage["unheard"]] if stage["instances"] else []
        silent = [f"{name}.{instance}" for instance in stage["silent"]]
        told = ((unheard, "not heard of yet", "yellow"), (missing, "not heard of", "red"), (silent, "silent", "red"))
        for who, what, style in told:
            if name == down and not (missing and silent):
                continue  # likewise
            found += wrap(f"{', '.join(who)}: {what}", width, style) if who else []
        for what, reasons in (("takes no more", stage["stopped_by"]), ("is held up", stage["held_by"])):
            for why in dict.fromkeys(reasons.values()):
                if name == said and why in bottleneck["why"]:
                    continue  # the sentence of the bottleneck says it
                names = ", ".join(instance for instance, its in reasons.items() if its == why)
                found += wrap(f"{names} {what}: {why}", width, "bold red")
        for instance, reasons in stage["refusals"].items():
            for reason in dict.fromkeys(reasons):
                found += wrap(f"{instance}: {reason}", width, "bold red")
        for fault in buffer_faults(stage["instances"]):
            found += wrap(fault, width, "bold red")
        if stage["unrouted"]:
            found += wrap(
                f"{name}: {stage['unrouted']:,} outputs left by an outlet that no stage reads", width, "yellow"
            )
    for whose, ahead_s in value.get("clocks", {}).items():
        which = f"{spelled(abs(ahead_s))} {'ahead' if ahead_s > 0 else 'behind'}"
        said = "times since the origin of messages are left out where that makes them wrong"
        found += wrap(f"clock of {whose} is {which}: {said}", width, "yellow")
    untold = [name for name, stage in value["stages"].items() if stage["live"] and stage["budget"] is None]
    if untold and not bottleneck:
        whose = ", ".join(untold)
        found += wrap(f"{whose}: time budget not said, so what holds the pipeline up is not known", width, "yellow")
    if bottleneck:
        found += wrap(f"{bottleneck['why']}; {bottleneck['advice']}", width, "bold yellow")
    return found


class StatusTable:
    """Stages and links at a width. `tall`: one table each; else a stage and the first link into it share a row."""

    def __init__(self, value: dict[str, Any], width: int, tall: bool, glyphs: Glyphs = UNICODE) -> None:
        self._value = value
        self._room = width - MARK
        self._glyphs = glyphs
        self._bottleneck = value["bottleneck"]["stage"] if value["bottleneck"] else None
        self.lines = self._two_tables() if tall else self._one_table()

    def _into(self, name: str) -> list[dict[str, Any]]:
        return [link for link in self._value["links"] if link["to"] == name]

    def _mark(self, name: str) -> Span:
        return " *" if name == self._bottleneck else "  ", "bold"

    def _style(self, name: str) -> str:
        return "bold" if name == self._bottleneck else ""

    def _two_tables(self) -> list[Line]:
        stages = [(name, rows.stage_cells(name, stage)) for name, stage in self._value["stages"].items()]
        widths = fit(rows.STAGE_COLUMNS, [row for _, row in stages], self._room)
        lines = [self._head(rows.STAGE_COLUMNS, widths)]
        lines += [
            [self._mark(name), *lay(rows.STAGE_COLUMNS, row, widths, self._glyphs, self._style(name))]
            for name, row in stages
        ]
        links = [(link["to"], rows.link_cells(link, self._glyphs)) for name, _ in stages for link in self._into(name)]
        widths = fit(rows.LINK_COLUMNS, [row for _, row in links], self._room)
        if links:
            lines.append(self._head(rows.LINK_COLUMNS, widths))
        lines += [
            [("  ", ""), *lay(rows.LINK_COLUMNS, row, widths, self._glyphs, self._style(name))] for name, row in links
        ]
        return lines

    def _one_table(self) -> list[Line]:
        columns = rows.SHORT_STAGE_COLUMNS + rows.SHORT_LINK_COLUMNS
        made: list[tuple[str, bool, list[Span]]] = []
        for name, stage in self._value["stages"].items():
            cells = rows.short_stage_cells(name, stage)
            links = [rows.short_link_cells(link, self._glyphs) for link in self._into(name)]
            links = links or [[rows.EMPTY] * len(rows.SHORT_LINK_COLUMNS)]
            made.append((name, True, cells + links[0]))
            made += [(name, False, [rows.EMPTY] * len(cells) + more) for more in links[1:]]
        widths = fit(columns, [row for _, _, row in made], self._room)
        lines = [self._head(columns, widths)]
        for name, first, row in made:
            mark = self._mark(name) if first else ("  ", "")
            lines.append([mark, *lay(columns, row, widths, self._glyphs, self._style(name))])
        return lines

    def _head(self, columns: Sequence[Column], widths: Sequence[int]) -> Line:
        return [("  ", ""), *lay(columns, [(column.head, "bold") for column in columns], widths, self._glyphs)]


def status(value: dict[str, Any], width: int, glyphs: Glyphs = UNICODE) -> list[Line]:
    """The whole status without anything to operate: for `zpipe run`, files and pipes."""
    table = StatusTable(value, width, tall=width >= 100, glyphs=glyphs)
    return [clip(line, width) for line in [title(value), *table.lines, *remarks(value, width)]]
