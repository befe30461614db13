"""Tables laid out by hand: columns that fit the width there is, and lines of styled text.

Must not live here: what stands in a cell. rich's own Table is not used because it takes nine times as long (13 ms for 20 stages),
and a screen is laid out every interval.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from zpipe.monitor.formatting import cut, visible
from zpipe.monitor.table.glyphs import Glyphs

Span = tuple[str, str]
"""(text, style); a style is what rich's Style.parse reads, or ""."""
Line = list[Span]
SHORTEST_NAME = 5
HANGS = 20
"""From this width on, all lines of a sentence but the first are indented."""
_SECOND_CELL = "\ue000"
"""Stands, while a sentence is broken into lines, for the second cell of a character that takes two."""
LEFT, RIGHT = "left", "right"


class Column(NamedTuple):
    """rank   columns of the highest rank are left out first where there is too little room, those from 1 down only after names
           were cut; 0: never
    name   a name: its middle may be cut
    sparse  left out before anything is cut if nothing, or 0, stands in it everywhere"""

    head: str
    align: str = RIGHT
    rank: float = 0
    name: bool = False
    sparse: bool = False


def fit(columns: Sequence[Column], rows: Sequence[Sequence[Span]], room: int) -> list[int]:
    """The width of each column, 0 for those left out."""
    widths = [max([len(column.head), *(len(row[at][0]) for row in rows)]) for at, column in enumerate(columns)]
    for at, column in enumerate(columns):
        nothing = {row[at][0] for row in rows} <= ({"", "0"} if _over(widths, room) > 0 else {""})
        if column.sparse and nothing:
            widths[at] = 0
    for rank in sorted({column.rank for column in columns if column.rank > 1}, reverse=True):
        for at, column in enumerate(columns):
            if column.rank == rank and _over(widths, room) > 0:
                widths[at] = 0
    names = [at for at, column in enumerate(columns) if column.name]
    while _over(widths, room) > 0 and any(widths[at] > SHORTEST_NAME for at in names):
        widths[max(names, key=lambda at: widths[at])] -= 1
    for at in sorted(range(len(columns)), key=lambda at: -columns[at].rank):
        if 0 < columns[at].rank <= 1 and _over(widths, room) > 0:
            widths[at] = 0
    return widths


def _over(widths: Sequence[int], room: int) -> int:
    shown = [width for width in widths if width]
    return sum(shown) + len(shown) - 1 - room


def lay(columns: Sequence[Column], row: Sequence[Span], widths: Sequence[int], glyphs: Glyphs, style: str = "") -> Line:
    """One row as a line."""
    line: Line = []
    for column, (text, own), width in zip(columns, row, widths, strict=True):
        if not width:
            continue
        text = cut(text, width, glyphs.ellipsis)
        padded = text.ljust(width) if column.align == LEFT else text.rjust(width)
        line.append(((" " if line else "") + padded, own or style))
    return line


def width_of(line: Line) -> int:
    return sum(len(text) for text, _ in line)


def clip(line: Line, width: int) -> Line:
    """At most so many characters of a line, without the spaces at its end."""
    clipped: Line = []
    for text, style in line:
        if width <= 0:
            break
        clipped.append((text[:width], style))
        width -= len(text)
    if clipped:
        clipped[-1] = (clipped[-1][0].rstrip() if "reverse" not in clipped[-1][1] else clipped[-1][0], clipped[-1][1])
    return clipped


def wrap(text: str, width: int, style: str = "", indent: str = "  ") -> list[Line]:
    """A whole sentence, broken into lines. Whatever it contains, nothing of it gets out of them."""
    cells = visible(" ".join(text.split()))
    if not cells.isascii():
        cells = "".join(f"{x}{_SECOND_CELL}" if unicodedata.east_asian_width(x) in "WF" else x for x in cells)
        width -= _SECOND_CELL in cells  # A character that is broken between its cells goes into the earlier line.
    # Names and paths have hyphens, and would be read wrongly where they are broken there.
    lines = textwrap.wrap(
        cells, max(width, 1), subsequent_indent=indent if width >= HANGS else "", break_on_hyphens=False
    )
    return [[(line.replace(_SECOND_CELL, ""), style)] for line in lines]


def plain(line: Line) -> str:
    return "".join(text for text, _ in line).rstrip()
