"""The layout of graphs: no box overlaps another, and no line runs through a box."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from screens import ORDERS, TWENTY

from zpipe.monitor.screen.graph.drawing import ARMS, Canvas, Stroke
from zpipe.monitor.screen.graph.layers import Edge, column_of, crossings, layers
from zpipe.monitor.screen.graph.layout import Plan, Sizing, plan
from zpipe.monitor.screen.views.pipeline_view import best_plan
from zpipe.monitor.table.columns import plain

SIZINGS = (Sizing(18, 6), Sizing(16, 4, 5, 0), Sizing(14, 1, 4, 0))


def edges_of(stages: dict[str, list[str]]) -> list[Edge]:
    return [(source, name) for name, sources in stages.items() for source in sources]


def random_graph(seed: int) -> dict[str, list[str]]:
    chance = random.Random(seed)
    names = [f"s{n}" for n in range(chance.randint(2, 20))]
    return {
        name: chance.sample(names[:n], min(n, chance.choice((1, 1, 1, 2, 3)))) if n else []
        for n, name in enumerate(names)
    }


def cells(points: tuple[tuple[int, int], ...]) -> set[tuple[int, int]]:
    found = set()
    for (x, y), (to_x, to_y) in pairwise(points):
        assert x == to_x or y == to_y, "a link runs along rows and columns"
        found |= {(a, b) for a in range(min(x, to_x), max(x, to_x) + 1) for b in range(min(y, to_y), max(y, to_y) + 1)}
    return found | {points[-1]}


def check(made: Plan, edges: list[Edge], width: int) -> None:
    assert made.width <= width
    inside: dict[tuple[int, int], str] = {}
    for name, box in made.boxes.items():
        assert box.x >= 0 and box.y >= 0 and box.x + box.width <= made.width and box.y + box.height <= made.height
        for x in range(box.x, box.x + box.width):
            for y in range(box.y, box.y + box.height):
                assert inside.setdefault((x, y), name) == name, "two boxes overlap"
    assert set(made.routes) == set(edges)
    for (start, end), route in made.routes.items():
        for cell in cells(route.points):
            assert cell not in inside, (start, end, cell, inside[cell])
            assert 0 <= cell[0] < made.width and 0 <= cell[1] < made.height
        first, last = made.boxes[start], made.boxes[end]
        assert route.points[0] in ((first.x + first.width, first.port), (first.x - 1, first.port))
        assert route.points[-1] in ((last.x - 1, last.port), (last.x + last.width, last.port))


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_are_laid_out(seed: int) -> None:
    stages = random_graph(seed)
    edges = edges_of(stages)
    made = layers(list(stages), edges)
    for sizing in SIZINGS:
        for width in (80, 120, 200):
            found = plan(made, sizing, width)
            if found is not None:
                check(found, edges, max(width, found.width))


@pytest.mark.parametrize("stages", [ORDERS, TWENTY])
def test_pipelines_fit_the_three_sizes(stages: dict[str, list[str]]) -> None:
    for width, height in ((78, 18), (118, 26), (146, 36)):
        found = best_plan(tuple(stages), tuple(edges_of(stages)), (1,) * len(stages), width, height)
        assert found is not None
        check(found[0], edges_of(stages), width)
        assert found[0].height <= height


def test_a_link_into_the_next_band_turns_once_and_has_no_way_back_to_go() -> None:
    stages = {f"s{n}": [f"s{n - 1}"] if n else [] for n in range(12)}
    made = plan(layers(list(stages), edges_of(stages)), Sizing(14, 4), 80)
    assert made is not None and made.bands == 4
    check(made, edges_of(stages), 80)
    for route in made.routes.values():
        turned = len({y for _, y in route.points}) > 1
        assert len(route.points) == (4 if turned else 2)
        assert max(abs(x - to_x) for (x, _), (to_x, _) in pairwise(route.points)) <= 14, "no line across the window"
    heads = {made.boxes[end].x < made.routes[start, end].points[-1][0] for start, end in made.routes}
    assert heads == {True, False}, "bands run to the right and to the left"


def test_sixty_stages_are_drawn_on_a_large_screen() -> None:
    stages: dict[str, list[str]] = {"source": []}
    for row in range(10):
        for step in range(5):
            stages[f"step-{row}-{step}"] = [f"step-{row}-{step - 1}" if step else "source"]
    stages["merge"] = [f"step-{row}-4" for row in range(10)]
    for n in range(8):
        stages[f"sink-{n}"] = ["merge"]
    found = best_plan(tuple(stages), tuple(edges_of(stages)), (1,) * len(stages), 146, 36)
    assert found is not None
    check(found[0], edges_of(stages), 146)


def test_a_stage_stands_after_all_that_come_before_it_and_a_source_next_to_its_reader() -> None:
    stages = {"a": [], "b": ["a"], "c": ["b"], "late": [], "d": ["c", "late"], "alone": []}
    found = column_of(list(stages), edges_of(stages))
    assert [found[name] for name in ("a", "b", "c", "d")] == [0, 1, 2, 3]
    assert found["late"] == 2


def test_a_circle_does_not_hang_it() -> None:
    made = layers(["a", "b"], [("a", "b"), ("b", "a")])
    assert set(made.paths) == {("a", "b")} or set(made.paths) == {("b", "a")}


def test_barycentres_undo_crossings() -> None:
    stages = {"a": [], "b": [], "x": ["b"], "y": ["a"]}
    assert crossings(layers(list(stages), edges_of(stages)).columns) == 0


def test_every_pair_of_weights_has_a_character() -> None:
    arms = [(a, b, c, d) for a in range(3) for b in range(3) for c in range(3) for d in range(3)]
    assert all(one in ARMS for one in arms if any(one))


def test_a_crossing_is_not_drawn_as_a_branch() -> None:
    stages = {"a": [], "b": [], "x": ["a", "b"], "y": ["b", "a"], "z": ["a"]}
    edges = edges_of(stages)
    found = plan(layers(list(stages), edges), Sizing(8, 3), 80)
    assert found is not None
    canvas = Canvas(found.width, found.height)
    canvas.links(found, {edge: Stroke("", "", 0.0, 0) for edge in edges})
    text = "\n".join(plain(line) for line in canvas.lines())
    assert text.count("▶") == 3


def test_arrows_show_where_a_band_runs_to() -> None:
    stages = {f"s{n}": [f"s{n - 1}"] if n else [] for n in range(6)}
    edges = edges_of(stages)
    found = plan(layers(list(stages), edges), Sizing(10, 3), 60)
    assert found is not None and found.bands == 2
    for ascii_only, heads in ((False, "▶◀"), (True, "><")):
        canvas = Canvas(found.width, found.height, ascii_only)
        canvas.links(found, {edge: Stroke("", "", 0.0, 0) for edge in edges})
        text = "\n".join(plain(line) for line in canvas.lines())
        assert [text.count(head) for head in heads] == [2, 3]
