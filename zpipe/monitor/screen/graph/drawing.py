"""A layout as lines of characters: boxes with what stands in them, and links as box-drawing lines whose weight and colour say how
full they are. Must not live here: where things go (`layout`), and what a box says.

Where several links share a cell, the gravest of them gives it its colour. Where two cross, the line across is interrupted, so
that a crossing is never taken for a branch.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from zpipe.monitor.screen.graph.layers import Edge
from zpipe.monitor.screen.graph.layout import Plan, Point, Rect
from zpipe.monitor.table.columns import Line, Span

UP, RIGHT, DOWN, LEFT = range(4)
_WORDS = {"UP": (UP,), "DOWN": (DOWN,), "LEFT": (LEFT,), "RIGHT": (RIGHT,), "VERTICAL": (UP, DOWN)}
_WORDS["HORIZONTAL"] = LEFT, RIGHT
_ROUNDED = {"┌": "╭", "┐": "╮", "┘": "╯", "└": "╰"}


class Stroke(NamedTuple):
    """How a link is drawn. `heavy`: the share of it, from the arrow head back, that is drawn heavy. `gravity`: whose style a
    shared cell takes."""

    style: str
    filled_style: str
    heavy: float
    gravity: int
    label: str = ""


class Box(NamedTuple):
    """What stands in a box; `title` and `foot` (left, right) stand on its edges. Without edges only the first line is drawn."""

    title: Line
    lines: Sequence[Line]
    foot: tuple[Line, Line]
    style: str
    heavy: bool


def _arms() -> dict[tuple[int, int, int, int], str]:
    """Characters by the weights of their arms (0 none, 1 light, 2 heavy), from their names in Unicode."""
    found: dict[tuple[int, int, int, int], str] = {}
    for code in (*range(0x2500, 0x254C), *range(0x2574, 0x2580)):
        words = unicodedata.name(chr(code)).removeprefix("BOX DRAWINGS ").split()
        if "DASH" in words or "DIAGONAL" in words:
            continue
        weights, weight, last = [0, 0, 0, 0], 1, ""
        parts = [part.split() for part in " ".join(words).split(" AND ")]
        whole = words[0] if words[0] in ("LIGHT", "HEAVY") else ""
        for part in parts:
            for at, word in enumerate(part):
                if word in ("LIGHT", "HEAVY"):
                    whole = word
                    continue
                following = next((w for w in part[at + 1 :] if w in ("LIGHT", "HEAVY")), None)
                last = whole if part[0] in ("LIGHT", "HEAVY") or following is None else following
                weight = 2 if last == "HEAVY" else 1
                for arm in _WORDS[word]:
                    weights[arm] = weight
        found.setdefault((weights[0], weights[1], weights[2], weights[3]), _ROUNDED.get(chr(code), chr(code)))
    return found


ARMS = _arms()


class Canvas:
    """Cells that are written in any order."""

    def __init__(self, width: int, height: int, ascii_only: bool = False) -> None:
        self.width, self.height = width, height
        self._ascii = ascii_only
        self._cells: list[list[Span]] = [[(" ", "")] * width for _ in range(height)]

    def put(self, x: int, y: int, line: Line, room: int | None = None) -> None:
        """A line from (x, y) on, at most `room` cells of it."""
        end = self.width if room is None else min(self.width, x + room)
        for text, style in line:
            for char in text:
                if x >= end or not 0 <= y < self.height:
                    return
                if x >= 0:
                    self._cells[y][x] = (char, style)
                x += 1

    def lines(self) -> list[Line]:
        return [_merged(row) for row in self._cells]

    # ---- links

    def links(self, plan: Plan, strokes: Mapping[Edge, Stroke]) -> None:
        arms: dict[Point, list[int]] = {}
        look: dict[Point, tuple[int, str]] = {}
        turned: set[Point] = set()
        for edge, route in plan.routes.items():
            stroke = strokes[edge]
            cells = list(_walk(route.points))
            filled = len(cells) - round(stroke.heavy * len(cells))
            for at, (point, into, out) in enumerate(cells):
                weight, style = (2, stroke.filled_style) if at >= filled else (1, stroke.style)
                own = arms.setdefault(point, [0, 0, 0, 0])
                for arm in (into, out):
                    own[arm] = max(own[arm], weight)
                gravity = stroke.gravity if at >= filled else min(stroke.gravity, 1)
                if gravity >= look.get(point, (-1, ""))[0]:
                    look[point] = gravity, style
                if (into + out) % 2:
                    turned.add(point)
        for (x, y), own in arms.items():
            if all(own) and (x, y) not in turned:
                own = [own[UP], 0, own[DOWN], 0]
            self.put(x, y, [(self._char(own), look[x, y][1])])
        for edge, route in plan.routes.items():
            (before, _), (x, y) = route.points[-2:]
            heads = "<>" if self._ascii else "◀▶"
            self.put(x, y, [(heads[before < x], look.get((x, y), (0, strokes[edge].style))[1])])
        for edge, route in plan.routes.items():
            text = strokes[edge].label
            if route.label is None or not text:
                continue
            x, y, room = route.label
            if len(text) <= room:
                self.put(x + (room - len(text)) // 2, y, [(text, f"bold {strokes[edge].filled_style}")])

    def _char(self, own: Sequence[int]) -> str:
        if self._ascii:
            across, down = bool(own[LEFT] or own[RIGHT]), bool(own[UP] or own[DOWN])
            heavy = 2 in own
            return "+" if across and down else ("=" if heavy else "-") if across else ("H" if heavy else "|")
        return ARMS[own[0], own[1], own[2], own[3]]

    # ---- boxes

    def box(self, rect: Rect, box: Box) -> None:
        x, y, width, height = rect
        if height < 3:
            self.put(x, y, [*box.title, (" ", ""), *(box.lines[0] if box.lines else [])], width)
            return
        corners = "++++-|" if self._ascii else "┏┓┗┛━┃" if box.heavy else "╭╮╰╯─│"
        if self._ascii and box.heavy:
            corners = "####=#"
        inner = width - 2
        self.put(x, y, [(corners[0] + corners[4] * inner + corners[1], box.style)])
        self.put(x, y + height - 1, [(corners[2] + corners[4] * inner + corners[3], box.style)])
        for row in range(1, height - 1):
            self.put(x, y + row, [(corners[5] + " " * inner + corners[5], box.style)])
            if row <= len(box.lines):
                self.put(x + 2, y + row, box.lines[row - 1], width - 4)
        self.put(x + 1, y, [(" ", ""), *box.title, (" ", "")], inner)
        left, right = box.foot
        if left:
            self.put(x + 2, y + height - 1, [(" ", ""), *left, (" ", "")], inner - 1)
        if right:
            taken = sum(len(text) for text, _ in right) + 2
            self.put(x + width - 2 - taken, y + height - 1, [(" ", ""), *right, (" ", "")], taken)


def _walk(points: Sequence[Point]) -> Iterator[tuple[Point, int, int]]:
    """Each cell of a link with the sides by which it is entered and left."""
    cells: list[Point] = [points[0]]
    for (x, y), (to_x, to_y) in pairwise(points):
        while (x, y) != (to_x, to_y):
            x += (to_x > x) - (to_x < x)
            y += (to_y > y) - (to_y < y)
            cells.append((x, y))
    for at, (x, y) in enumerate(cells):
        before = cells[at - 1] if at else _beyond(cells[1], cells[0])
        after = cells[at + 1] if at + 1 < len(cells) else _beyond(cells[-2], cells[-1])
        yield (x, y), _side(x, y, before), _side(x, y, after)


def _beyond(one: Point, other: Point) -> Point:
    """The cell after these two, in the same direction."""
    return 2 * other[0] - one[0], 2 * other[1] - one[1]


def _side(x: int, y: int, other: Point) -> int:
    if other[0] != x:
        return RIGHT if other[0] > x else LEFT
    return DOWN if other[1] > y else UP


def _merged(row: Sequence[Span]) -> Line:
    """Neighbours of one style as one piece."""
    line: Line = []
    text, style = "", ""
    for char, own in row:
        if own != style and text:
            line.append((text, style))
            text = ""
        style = own
        text += char
    line.append((text, style))
    return line
