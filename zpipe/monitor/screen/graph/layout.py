"""Where the boxes and lines of a graph go, in cells. Pure. Must not live here: what stands in a box, and characters.

Columns stand from left to right, and where the width is too small for all of them in bands one below the other, which run to the
right and to the left in turns. Boxes of a band stand as close to the middle of their neighbours as the order allows. Between two
columns each bundle of links has a vertical track of its own, and so has each that turns into the next band. A way back to the
left edge, as text has it, would take a lane for each bundle: at 80 columns twenty stages had more lanes than rows of boxes. Two
links share cells only where they leave the same box or enter the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from zpipe.monitor.screen.graph.layers import Edge, Layers, Node

Point = tuple[int, int]
"""(x, y)"""
ARROW = 2
"""Cells before a box: the arrow head, and a piece of line."""
OVERLAP = 1000
"""What two links that would lie on each other cost, in crossings."""


class Sizing(NamedTuple):
    """What there is to choose. Heights and widths in cells.

    label    room for the figure on a link;  between: rows between two boxes
    stretch  added to every gap between two columns
    """

    box_width: int
    box_height: int
    label: int = 5
    between: int = 1
    stretch: int = 0


class Rect(NamedTuple):
    x: int
    y: int
    width: int
    height: int

    @property
    def port(self) -> int:
        """The row in which links enter and leave."""
        return self.y + self.height // 2


class Route(NamedTuple):
    """`points` are the corners from box to arrow head. `label` is where the figure may begin, with so much room."""

    points: tuple[Point, ...]
    label: tuple[int, int, int] | None


class Plan(NamedTuple):
    width: int
    height: int
    bands: int
    boxes: dict[str, Rect]
    routes: dict[Edge, Route]


@dataclass(eq=False)
class _Bus:
    """Links that share a vertical track: all that leave one node, or several into one node that go nowhere else."""

    lefts: list[Node]
    rights: list[Node]
    level: int = 0
    low: int = 0
    high: int = 0
    rows_left: list[int] = field(default_factory=list)
    rows_right: list[int] = field(default_factory=list)

    @property
    def straight(self) -> bool:
        return self.low == self.high

    def take_rows(self, row: dict[int, int]) -> None:
        self.rows_left = [row[id(node)] for node in self.lefts]
        self.rows_right = [row[id(node)] for node in self.rights]
        rows = self.rows_left + self.rows_right
        self.low, self.high = min(rows), max(rows)


def plan(
    layers: Layers, sizing: Sizing, width: int, height: int | None = None, most_bands: int | None = None
) -> Plan | None:
    """The plan with the fewest bands that is at most so wide. None if not even one column fits, or if it is higher than
    `height` or has more than `most_bands`. To tell that soon is worth it: dozens are tried before the first picture.
    """
    groups = _buses(layers)
    needs = [_gap_width(buses, sizing) for buses in groups]
    turns = [(_leaving_width(buses, sizing), _entering_width(buses, sizing)) for buses in groups]
    bands = _bands(len(layers.columns), needs, turns, [len(buses) for buses in groups], sizing, width)
    if bands is None or (most_bands is not None and len(bands) > most_bands):
        return None
    if height is not None and _least_height(layers, sizing, bands) > height:
        return None
    made = _Drawing(layers, sizing, groups, bands).plan()
    return made if made.width <= width and (height is None or made.height <= height) else None


def _least_height(layers: Layers, sizing: Sizing, bands: Sequence[tuple[int, int]]) -> int:
    """No plan with these bands is lower."""
    columns = [sum(sizing.box_height if node.name else 1 for node in column) for column in layers.columns]
    return sum(max(columns[first:end]) for first, end in bands) + (len(bands) - 1) * max(sizing.between, 1)


# ---- which columns stand in which band


def _bands(
    columns: int,
    gaps: Sequence[int],
    turns: Sequence[tuple[int, int]],
    wraps: Sequence[int],
    sizing: Sizing,
    width: int,
) -> list[tuple[int, int]] | None:
    """(first column, end) of each band: as few bands as fit, and of those as few links between bands as can be.

    gaps   the width of each gap between two columns;  turns: or what it takes after the one and before the other, in two bands
    wraps  the bundles of links in each gap
    """
    best: list[tuple[int, int, int, int] | None] = [(0, 0, 0, 0)] + [None] * columns
    for end in range(1, columns + 1):
        right = turns[end - 1][0] if end < columns else 0
        for first in range(end - 1, -1, -1):
            left = turns[first - 1][1] if first else 0
            need = left + (end - first) * sizing.box_width + sum(gaps[first : end - 1]) + right
            if need > width:
                break
            before = best[first]
            if before is None:
                continue
            cut = wraps[first - 1] if first else 0
            longest = max(before[2], end - first)
            found = (before[0] + 1, before[1] + cut, longest, first)
            kept = best[end]
            # Bands of much the same length are worth some links between them.
            if kept is None or (found[0], found[1] + found[2], found[2]) < (kept[0], kept[1] + kept[2], kept[2]):
                best[end] = found
    if best[columns] is None:
        return None
    bands: list[tuple[int, int]] = []
    end = columns
    while end:
        first = best[end][3]  # type: ignore[index]
        bands.insert(0, (first, end))
        end = first
    return bands


# ---- bundles of links


def _buses(layers: Layers) -> list[list[_Bus]]:
    """For the gap after each column but the last, the bundles of links in it."""
    found = []
    for column, following in pairwise(layers.columns):
        buses: list[_Bus] = []
        taken: set[int] = set()
        for node in following:
            alone = [one for one in node.before if len(one.after) == 1]
            if len(alone) > 1:
                buses.append(_Bus(alone, [node]))
                taken.update(map(id, alone))
        buses += [_Bus([node], list(node.after)) for node in column if node.after and id(node) not in taken]
        found.append(buses)
    return found


def _labelled_left(bus: _Bus) -> bool:
    """Whether the figures of its links stand where they leave, since they come together before they enter."""
    return len(bus.lefts) > 1 or (len(bus.rights) == 1 and len(bus.rights[0].before) > 1)


def _gap_width(buses: Sequence[_Bus], sizing: Sizing) -> int:
    left = sizing.label + 1 if any(map(_labelled_left, buses)) else 1
    right = sizing.label if any(not _labelled_left(bus) for bus in buses) else 0
    tracks = len(buses) if len(buses) > 1 or any(len(bus.rights) + len(bus.lefts) > 2 for bus in buses) else 1
    return left + min(tracks, 6) + right + ARROW + sizing.stretch


def _leaving_width(buses: Sequence[_Bus], sizing: Sizing) -> int:
    """What the bundles need after the last column of a band, to turn into the next one."""
    return (sizing.label + 1 if any(map(_labelled_left, buses)) else 1) + len(buses)


def _entering_width(buses: Sequence[_Bus], sizing: Sizing) -> int:
    """What they need before the first column of the next band."""
    return len(buses) + (sizing.label if not all(map(_labelled_left, buses)) else 0) + 1 + ARROW


# ---- rows


def _rows(columns: Sequence[Sequence[Node]], sizing: Sizing) -> tuple[dict[int, int], int]:
    """The port's row of each node of a band, by its id, and how many rows the band has."""
    height = {id(node): sizing.box_height if node.name else 1 for column in columns for node in column}
    here = set(height)
    row: dict[int, float] = {}
    for column in columns:
        top = 0
        for node in column:
            row[id(node)] = top + height[id(node)] // 2
            top += height[id(node)] + (sizing.between if node.name else 0)
    sweeps = [(True, False), (False, True), (True, True), (False, True), (True, True), (True, False)]
    for back, forth in sweeps:
        order = columns if back else list(reversed(columns))
        for column in order:
            wanted = []
            for node in column:
                near = [row[id(one)] for one in (node.before if back else []) if id(one) in here]
                near += [row[id(one)] for one in (node.after if forth else []) if id(one) in here]
                wanted.append(sum(near) / len(near) if near else row[id(node)])
            for node, at in zip(column, _apart(column, wanted, height, sizing), strict=True):
                row[id(node)] = at
    highest = min((row[id(node)] - height[id(node)] // 2 for column in columns for node in column), default=0)
    found = {key: round(at - highest) for key, at in row.items()}
    rows = max(found[key] - height[key] // 2 + height[key] for key in found)
    return found, rows


def _apart(column: Sequence[Node], wanted: Sequence[float], height: dict[int, int], sizing: Sizing) -> list[int]:
    """The rows nearest to the wanted ones at which nothing overlaps, by least squares (pool adjacent violators)."""
    offsets = [0]
    for one, other in pairwise(column):
        between = sizing.between if one.name and other.name else min(sizing.between, 1) if one.name or other.name else 0
        rise = height[id(one)] - height[id(one)] // 2
        offsets.append(offsets[-1] + rise + between + height[id(other)] // 2)
    blocks: list[list[float]] = []  # sum, count
    for at, offset in zip(wanted, offsets, strict=True):
        blocks.append([at - offset, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    found: list[int] = []
    for total, count in blocks:
        level = int(total / count + 0.5) if total >= 0 else -int(-total / count + 0.5)
        found += [level] * int(count)
    return [level + offset for level, offset in zip(found, offsets, strict=True)]


# ---- tracks


def _levels(buses: list[_Bus]) -> int:
    """Gives each bundle that turns its track, from left to right. Returns how many tracks there are."""
    turning = sorted((bus for bus in buses if not bus.straight), key=_slant)
    cost = _cost(turning)
    for _ in range(len(turning)):
        improved = False
        for at in range(len(turning) - 1):
            tried = [*turning[:at], turning[at + 1], turning[at], *turning[at + 2 :]]
            if (found := _cost(tried)) < cost:
                turning, cost, improved = tried, found, True
        if not improved:
            break
    for at, bus in enumerate(turning):
        bus.level = max(
            (one.level + 1 for one in turning[:at] if one.low <= bus.high and bus.low <= one.high), default=0
        )
    return max((bus.level + 1 for bus in turning), default=0)


def _slant(bus: _Bus) -> tuple[bool, float]:
    """Of bundles that go down the lowest stands first, of those that go up the highest: so they nest and do not cross."""
    left, right = bus.rows_left[0], sum(bus.rows_right) / len(bus.rows_right)
    return right < left, left if right < left else -left


def _cost(order: Sequence[_Bus]) -> int:
    cost = 0
    for at, one in enumerate(order):
        for other in order[at + 1 :]:
            cost += sum(1 for row in one.rows_right if other.low < row < other.high)
            cost += sum(1 for row in other.rows_left if one.low < row < one.high)
            cost += OVERLAP * sum(1 for row in one.rows_right if row in other.rows_left)
    return cost


# ---- coordinates


class _Drawing:
    """`_turns` and `_labels` have the number of the band in whose coordinates they are."""

    def __init__(self, layers: Layers, sizing: Sizing, groups: list[list[_Bus]], bands: list[tuple[int, int]]) -> None:
        self._layers, self._sizing, self._groups = layers, sizing, groups
        self._bands = bands
        self._x: list[int] = [0] * len(layers.columns)
        self._row: dict[int, int] = {}
        self._turns: dict[tuple[int, int], tuple[int, tuple[Point, ...]]] = {}
        self._labels: dict[tuple[int, int], tuple[int, tuple[int, int, int]]] = {}
        self._number = 0
        self._band_at = [at for at, (first, end) in enumerate(bands) for _ in range(first, end)]
        self._ends: list[int] = []
        self._width = 0

    def plan(self) -> Plan:
        sizing, columns = self._sizing, self._layers.columns
        top = 0
        turning: list[_Bus] = []
        for number, (first, end) in enumerate(self._bands):
            self._number = number
            if first:
                top += max(sizing.between, 1)
            # A link that turns once has changed its order with the others: so every second band stands upside down.
            here = [column[::-1] if number % 2 else column for column in columns[first:end]]
            rows, height = _rows(here, sizing)
            self._row |= {key: top + row for key, row in rows.items()}
            right = self._place(first, end, _entering_width(turning, sizing) if turning else 0)
            self._enter(turning, first)
            turning = self._groups[end - 1] if end < len(columns) else []
            self._leave(turning, right)
            self._ends.append(right + (_leaving_width(turning, sizing) if turning else 0))
            top += height
        self._width = max(self._ends)
        boxes = {node.name: self._box(node) for column in columns for node in column if node.name}
        routes = {edge: self._route(path) for edge, path in self._layers.paths.items()}
        return Plan(self._width, top, len(self._bands), boxes, routes)

    # Bands run to the right and to the left in turns, so that a link to the next one has no way back to go. A band is laid out
    # as if it ran to the right, from 0 on; where that is in the window is known when all bands are.

    def _x_of(self, band: int, x: int, width: int = 1) -> int:
        """Where something so wide begins in the window."""
        if band % 2:
            return self._width - x - width
        # The first band stands near its turn, since nothing enters it on the other side.
        return x + (self._width - self._ends[0] if band == 0 and len(self._bands) > 1 else 0)

    def _band_of(self, node: Node) -> int:
        return self._band_at[node.column]

    def _box(self, node: Node) -> Rect:
        width, height = self._sizing.box_width, self._sizing.box_height
        x = self._x_of(self._band_of(node), self._x[node.column], width)
        return Rect(x, self._row[id(node)] - height // 2, width, height)

    def _place(self, first: int, end: int, left: int) -> int:
        """Places the columns of a band and the tracks between them; where the last column ends."""
        sizing, x = self._sizing, left
        for at in range(first, end):
            self._x[at] = x
            x += sizing.box_width
            if at == end - 1:
                break
            buses = self._groups[at]
            for bus in buses:
                bus.take_rows(self._row)
            tracks = _levels(buses)
            wide = sizing.label + 1 if any(map(_labelled_left, buses)) else 1
            gap = max(_gap_width(buses, sizing), wide + tracks + ARROW)
            spare = gap - wide - tracks - ARROW - (sizing.label if not all(map(_labelled_left, buses)) else 0)
            base = x + wide + max(spare, 0) // 2
            for bus in buses:
                self._thread(bus, x, base + bus.level, x + gap)
            x += gap
        return x

    def _thread(self, bus: _Bus, left: int, track: int, right: int) -> None:
        """How each link of a bundle turns in a gap, and where its figure may stand."""
        for one in bus.lefts:
            for other in bus.rights:
                key = id(one), id(other)
                start, end = self._row[key[0]], self._row[key[1]]
                self._turns[key] = self._number, () if start == end else ((track, start), (track, end))
                if bus.straight and len(other.before) == 1:
                    self._labels[key] = self._number, (left, end, right - left - 1)
                elif len(other.before) == 1:
                    self._labels[key] = self._number, (track + 1, end, right - track - 2)
                elif _labelled_left(bus):
                    self._labels[key] = self._number, (left, start, track - left)

    def _leave(self, buses: list[_Bus], right: int) -> None:
        """The order of the bundles that go on in the next band: the lowest turns first, so that they nest."""
        buses.sort(key=lambda bus: -sum(self._row[id(node)] for node in bus.lefts) / len(bus.lefts))
        for bus in buses:
            bus.low = 0
            if _labelled_left(bus):
                for one in bus.lefts:
                    for other in bus.rights:
                        self._labels[id(one), id(other)] = self._number, (right, self._row[id(one)], self._sizing.label)

    def _enter(self, buses: list[_Bus], first: int) -> None:
        """How the bundles of the band before come into this one: down their tracks at its beginning."""
        for at, bus in enumerate(buses):
            track = len(buses) - 1 - at
            for one in bus.lefts:
                for other in bus.rights:
                    key = id(one), id(other)
                    start, end = self._row[key[0]], self._row[key[1]]
                    self._turns[key] = self._number, ((track, start), (track, end))
                    if not _labelled_left(bus):
                        room = self._x[first] - ARROW - len(buses)
                        self._labels[key] = self._number, (len(buses), end, room)

    def _route(self, path: list[Node]) -> Route:
        start, end = path[0], path[-1]
        points: list[Point] = [
            (self._x_of(self._band_of(start), self._x[start.column] + self._sizing.box_width), self._row[id(start)])
        ]
        label = None
        for one, other in pairwise(path):
            band, turns = self._turns[id(one), id(other)]
            points += [(self._x_of(band, x), y) for x, y in turns]
            found = self._labels.get((id(one), id(other)))
            if found is not None and found[1][2] >= 3:
                label = found
            if not other.name:  # it has the row of this column for itself
                label = self._band_of(other), (self._x[other.column], self._row[id(other)], self._sizing.box_width)
        points.append((self._x_of(self._band_of(end), self._x[end.column] - 1), self._row[id(end)]))
        if label is None:
            return Route(tuple(points), None)
        band, (x, y, room) = label
        return Route(tuple(points), (self._x_of(band, x, room), y, room))
