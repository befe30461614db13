"""What a view makes: panes of styled lines, with what can be chosen in them. Pure: no terminal, no Textual.

A style is a word or several of: good, warm, bad, dim, accent, bold, reverse, chosen, title; `theme` says which colours these are.
Must not live here: what any view says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zpipe.config import PipelineConfig
from zpipe.monitor.formatting import visible
from zpipe.monitor.model.events import Event
from zpipe.monitor.model.history import History, link_key
from zpipe.monitor.table.columns import LEFT, Column, Line, Span, clip, fit, lay, width_of
from zpipe.monitor.table.glyphs import ASCII, UNICODE, Glyphs, sparkline

SHARES = ("working", "retrying", "limited", "blocked", "waiting")
SHARE_WORDS = {"working": "busy", "retrying": "retrying", "limited": "limited", "blocked": "blocked", "waiting": "idle"}
SHARE_STYLES = {"working": "good", "retrying": "warm", "limited": "warm", "blocked": "bad", "waiting": "dim"}
_SHARE_CELLS = {"working": "█", "retrying": "▓", "limited": "▒", "blocked": "▚", "waiting": "·"}
_SHARE_ASCII = {"working": "#", "retrying": "r", "limited": "l", "blocked": "x", "waiting": "."}
FULL, HALF = 0.9, 0.5
"""From which share of its bound on a link is drawn in red, and in amber."""
Cell = Span | Line


class Region(NamedTuple):
    """Cells of a pane that stand for one thing, by its key: `stage:NAME`, `link:KEY` and the like."""

    key: str
    x: int
    y: int
    width: int
    height: int


@dataclass
class Pane:
    """`head` stays in place while `lines` scroll.

    regions  what can be chosen, in the coordinates of `lines`;  links: what only the mouse can choose there
    buttons  what can be clicked in `head`
    """

    lines: list[Line] = field(default_factory=list)
    head: list[Line] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    links: list[Region] = field(default_factory=list)
    buttons: list[Region] = field(default_factory=list)

    def add(self, line: Line, key: str = "") -> None:
        if key:
            self.regions.append(Region(key, 0, len(self.lines), 10_000, 1))
        self.lines.append(line)

    def keys(self) -> list[str]:
        return list(dict.fromkeys(region.key for region in self.regions))

    def region(self, key: str) -> Region | None:
        return next((region for region in self.regions if region.key == key), None)

    def mark(self, key: str, width: int) -> None:
        """Shows that the lines of this key are chosen."""
        for region in self.regions:
            if region.key == key and region.height == 1 and region.width == 10_000:
                line = self.lines[region.y]
                padded = [*line, (" " * max(width - width_of(line), 0), "")]
                self.lines[region.y] = [(text, f"{style} chosen") for text, style in padded]


class View(NamedTuple):
    """`side` stands to the right with `side_width` cells, `below` under both with its own number of lines."""

    main: Pane
    side: Pane | None = None
    side_width: int = 0
    below: Pane | None = None


@dataclass
class Choice:
    """What the user has chosen: the view, the thing in it, how it is sorted and filtered.

    stage, link  the ones that the views 3 and 4 are about
    row          the chosen key of each view
    boxes        whether the pipeline is drawn; else it is a list
    """

    view: int = 1
    stage: str = ""
    link: str = ""
    row: dict[int, str] = field(default_factory=dict)
    sort: dict[int, int] = field(default_factory=dict)
    filters: dict[int, str] = field(default_factory=dict)
    unfolded: set[str] = field(default_factory=set)
    boxes: bool = True
    legend: bool = False

    def filter(self) -> str:
        return self.filters.get(self.view, "").casefold()

    def turn_over(self) -> None:
        """Boxes or a list in the pipeline, with or without the legend in the table."""
        if self.view == 1:
            self.boxes = not self.boxes
        else:
            self.legend = not self.legend

    def passes(self, *texts: str) -> bool:
        """Whether each word of the filter stands in one of the texts."""
        whole = " ".join(texts).casefold()
        return all(word in whole for word in self.filter().split())


class Letters(NamedTuple):
    """The stored dead letters as they were read last, newest first. `stored`: how many there are; `problem`: why none was
    read."""

    rows: Sequence[dict[str, Any]] = ()
    stored: int = 0
    problem: str = ""


class Replay(NamedTuple):
    """Where a recording is, in seconds from its start, and of how many."""

    at_s: float
    length_s: float
    speed: float
    playing: bool


class Shown(NamedTuple):
    """What every view is made of. `waits`: what is waited for while nothing was heard of; `clock`: the time in words."""

    value: dict[str, Any]
    history: History
    events: Sequence[Event]
    clock: str
    config: PipelineConfig
    waits: str = ""
    letters: Letters = Letters()
    replay: Replay | None = None
    glyphs: Glyphs = UNICODE

    @property
    def ascii(self) -> bool:
        return self.glyphs is ASCII


def link_name(link: dict[str, Any]) -> str:
    """FROM->TO, or FROM.OUTLET->TO: as `zpipe tap` takes it."""
    outlet = f".{link['outlet']}" if link["outlet"] else ""
    return f"{link['from']}{outlet}->{link['to']}"


def link_words(link: dict[str, Any], glyphs: Glyphs) -> str:
    return link_name(link).replace("->", " -> " if glyphs is ASCII else " → ")


# ---- pieces of lines


def gauge(link: dict[str, Any]) -> tuple[float, str]:
    """How full a link is (0 to 1), and the style of that."""
    part = min(link["depth"] / link["bound"], 1.0) if link["bound"] else 0.0
    if link["full_in_s"] == 0.0:
        part = 1.0
    return part, "bad" if part > FULL else "warm" if part > HALF else "good"


def fill_bar(link: dict[str, Any], width: int, glyphs: Glyphs) -> Line:
    part, style = gauge(link)
    filled = max(round(part * width), 1 if link["depth"] else 0)
    full, rest = ("=", "-") if glyphs is ASCII else ("━", "─")
    return [(full * filled, style), (rest * (width - filled), "dim")]


def share_bar(budget: dict[str, float] | None, width: int, glyphs: Glyphs) -> Line:
    """The time of a stage as a stacked bar. Whoever has a share has a cell, as far as there are cells."""
    if budget is None:
        return [(" " * width, "")]
    cells = _SHARE_ASCII if glyphs is ASCII else _SHARE_CELLS
    line: Line = []
    used, total = 0, 0.0
    for share in SHARES[:-1]:
        part = budget.get(share, 0.0)
        total += part
        end = min(width, max(round(total * width), used + (1 if part >= 0.02 else 0)))
        if end > used:
            line.append((cells[share] * (end - used), SHARE_STYLES[share]))
        used = max(used, end)
    line.append((cells["waiting"] * (width - used), "dim"))
    return line


def main_share(stage: dict[str, Any]) -> Span:
    """What it mostly does: "93% busy"."""
    budget = stage["budget"]
    if not budget:
        return "", ""
    most = max(SHARES, key=lambda share: budget.get(share, 0.0))
    return f"{100 * budget[most]:.0f}% {SHARE_WORDS[most]}", SHARE_STYLES[most]


STATES = {
    "RUNNING": ("running", "good"),
    "STARTING": ("starting", "warm"),
    "DRAINING": ("draining", "warm"),
    "FLUSHED": ("flushed", "warm"),
    "STOPPED": ("stopped", "dim"),
    "SILENT": ("silent", "bold bad"),
    "ABSENT": ("absent", "bold bad"),
    "UNHEARD": ("not heard yet", "dim"),
    "FAILED": ("failed", "bold bad"),
}
HALTED = {"held": ("held", "bold bad"), "paused": ("paused", "warm")}


def state_of(stage: dict[str, Any]) -> Span:
    """A word for what it is, in the colour of its gravity."""
    if stage["halted"]:
        return HALTED[stage["halted"]]
    return STATES[stage["state"]]


def dot(word: Span, glyphs: Glyphs) -> Span:
    """The mark of a state, which tells it without colour too."""
    marks = {"good": "●", "warm": "◐", "dim": "○", "bold bad": "▲"}
    plain = {"good": "o", "warm": "~", "dim": ".", "bold bad": "!"}
    return (plain if glyphs is ASCII else marks)[word[1]], word[1]


def spark(numbers: Sequence[float], width: int, glyphs: Glyphs, style: str = "accent") -> Line:
    return [(sparkline(numbers, width, glyphs), style)]


def depth_style(link: dict[str, Any]) -> str:
    return gauge(link)[1] if link["depth"] else "dim"


def depth_spark(shown: Shown, link: dict[str, Any], width: int) -> Line:
    """How many messages waited on the link, lately."""
    depths = [point.sender + point.receiver for point in shown.history.depths(link_key(link))]
    return spark(depths, width, shown.glyphs, depth_style(link))


def known_instances(stage: dict[str, Any]) -> int:
    """How many instances a stage is to have, heard of or not."""
    return len(stage["instances"]) + len(stage["absent"]) + len(stage["unheard"])


def instances_words(stage: dict[str, Any]) -> Span:
    live, known = stage["live"], known_instances(stage)
    if live != known:
        return f"{live} of {known} instances", "bad"
    return f"{known} instance{'s' if known != 1 else ''}", ""


def dead_letters(stage: dict[str, Any]) -> int:
    """Those that are stored; where that is not said, those since its start."""
    stored: int | None = stage["dead_stored"]
    return int(stage["dead"]) if stored is None else stored


def safe(text: str) -> str:
    """On one line, and nothing in it can move a cursor."""
    return visible(" ".join(text.split()))


def nearest(regions: Sequence[Region], here: Region, across: int, down: int) -> str:
    """The region that is nearest in that direction; the same one if there is none. Across, the rows between weigh more."""
    best, least = here.key, float("inf")
    for region in regions:
        dx = (region.x + region.width // 2) - (here.x + here.width // 2)
        dy = (region.y + region.height // 2) - (here.y + here.height // 2)
        along, aside = (dx * across, abs(dy) * 4) if across else (dy * down, abs(dx) // 2)
        if along <= 0:
            continue
        distance = along + aside
        if distance < least:
            best, least = region.key, distance
    return best


# ---- tables


def plain_cell(cell: Cell) -> Span:
    return cell if isinstance(cell, tuple) else ("".join(text for text, _ in cell), "")


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int, glyphs: Glyphs, head_style: str = "title"
) -> tuple[Line, list[Line]]:
    """The head and the rows of a table, as wide as there is room for. A cell may be a line of several styles."""
    texts = [[plain_cell(cell) for cell in row] for row in rows]
    widths = fit(columns, texts, width)
    head = lay(columns, [(column.head, head_style) for column in columns], widths, glyphs)
    lines = []
    for row, text in zip(rows, texts, strict=True):
        line: Line = []
        for column, cell, flat, room in zip(columns, row, text, widths, strict=True):
            if not room:
                continue
            if isinstance(cell, tuple) or len(flat[0]) > room:
                line += lay([column], [flat], [room], glyphs)
            else:
                pad = [(" " * (room - len(flat[0])), "")]
                line += [*cell, *pad] if column.align == LEFT else [*pad, *cell]
            line.append((" ", ""))
        lines.append(line[:-1])
    return head, lines


def keyed_table(
    columns: Sequence[Column], rows: Sequence[tuple[str, Sequence[Cell]]], width: int, glyphs: Glyphs
) -> tuple[Line, list[tuple[str, Line]]]:
    """A table with a margin, whose rows stand for something by their keys."""
    head, lines = table(columns, [cells for _, cells in rows], width - 2, glyphs)
    return [(" ", ""), *head], [(key, [(" ", ""), *line]) for (key, _), line in zip(rows, lines, strict=True)]


def join(parts: Sequence[Line], between: str = "  ") -> Line:
    line: Line = []
    for part in parts:
        if part:
            line += [*([(between, "")] if line else []), *part]
    return line


def flow(parts: Sequence[Line], width: int, between: str = "   ") -> list[Line]:
    """Parts one after the other, on as many lines as they need; each part stays whole."""
    lines: list[Line] = []
    for part in parts:
        if lines and part and width_of(lines[-1]) + len(between) + width_of(part) <= width:
            lines[-1] = [*lines[-1], (between, ""), *part]
        elif part:
            lines.append(list(part))
    return lines


def beside(left: Sequence[Line], right: Sequence[Line], width: int, between: int = 2) -> list[Line]:
    """Two blocks side by side, the left one so wide."""
    lines = []
    for at in range(max(len(left), len(right))):
        one = clip(left[at], width) if at < len(left) else []
        other = right[at] if at < len(right) else []
        lines.append([*one, (" " * (width - width_of(one) + between), ""), *other] if other else one)
    return lines
