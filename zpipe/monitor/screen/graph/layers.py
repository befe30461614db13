"""The order of a graph's stages before it has a size: which column each stands in, and in which order within its column.

A stage stands one column after the last of those before it (longest path). A link that spans several columns gets a bend in each
column between, which keeps a row free for it. Columns are sorted by the mean place of their neighbours (barycentre), back and
forth, and the order with the fewest crossings is kept. Must not live here: sizes and coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Edge = tuple[str, str]
"""(from, to), each pair of stages once."""
SWEEPS = 6


@dataclass(eq=False)
class Node:
    """A stage, or the bend of a long link in a column that it passes (`name` is "" then)."""

    name: str
    column: int
    edge: Edge | None = None
    before: list[Node] = field(default_factory=list)
    after: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Layers:
    """`paths` has the nodes that each link passes, from stage to stage."""

    columns: list[list[Node]]
    paths: dict[Edge, list[Node]]


def column_of(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """The column of each stage. A source stands right before the first stage that reads it. A link that closes a circle does not
    count."""
    before: dict[str, list[str]] = {name: [] for name in names}
    after: dict[str, list[str]] = {name: [] for name in names}
    for start, end in edges:
        before[end].append(start)
        after[start].append(end)
    found: dict[str, int] = {}

    def place(name: str, above: frozenset[str]) -> int:
        if name not in found:
            found[name] = 1 + max((place(one, above | {name}) for one in before[name] if one not in above), default=-1)
        return found[name]

    for name in names:
        place(name, frozenset((name,)))
    for name in names:
        if not before[name] and after[name]:
            found[name] = max(0, min(found[one] for one in after[name]) - 1)
    return found


def layers(names: Sequence[str], edges: Sequence[Edge]) -> Layers:
    places = column_of(names, edges)
    columns: list[list[Node]] = [[] for _ in range(max(places.values(), default=0) + 1)]
    nodes = {name: Node(name, places[name]) for name in names}
    for name in names:
        columns[places[name]].append(nodes[name])
    paths: dict[Edge, list[Node]] = {}
    for edge in edges:
        start, end = edge
        if places[end] <= places[start]:
            continue
        path = [nodes[start]]
        for column in range(places[start] + 1, places[end]):
            bend = Node("", column, edge)
            columns[column].append(bend)
            path.append(bend)
        path.append(nodes[end])
        for one, other in pairwise(path):
            one.after.append(other)
            other.before.append(one)
        paths[edge] = path
    return Layers(_ordered(columns), paths)


def _ordered(columns: list[list[Node]]) -> list[list[Node]]:
    best, fewest = [list(column) for column in columns], crossings(columns)
    for _ in range(SWEEPS):
        for forth in (True, False):
            _sweep(columns, forth)
            count = crossings(columns)
            if count < fewest:
                best, fewest = [list(column) for column in columns], count
    return best


def _sweep(columns: list[list[Node]], forth: bool) -> None:
    order = range(1, len(columns)) if forth else range(len(columns) - 2, -1, -1)
    for at in order:
        place = {id(node): n for n, node in enumerate(columns[at - 1 if forth else at + 1])}
        own = {id(node): float(n) for n, node in enumerate(columns[at])}
        for node in columns[at]:
            near = [place[id(one)] for one in (node.before if forth else node.after)]
            if near:
                own[id(node)] = sum(near) / len(near)
        columns[at].sort(key=lambda node, own=own: own[id(node)])  # type: ignore[misc]


def crossings(columns: Sequence[Sequence[Node]]) -> int:
    """Pairs of links that cross, over all columns."""
    total = 0
    for column, following in pairwise(columns):
        place = {id(node): n for n, node in enumerate(following)}
        ends = [sorted(place[id(one)] for one in node.after) for node in column]
        passed: list[int] = []
        for of_node in ends:
            total += sum(1 for end in of_node for other in passed if other > end)
            passed += of_node
    return total
