"""View 1: the pipeline as a graph of boxes, as a list where these have no room, and beside and below it what matters now. Pure.

Boxes give way in steps: sparkline, latency, bar, then boxes of one line without edges, then the list. A name is never cut while
there are boxes. The layout depends on names and the size of the window alone, so figures that change move nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from zpipe.monitor.formatting import count, duration, precise, size
from zpipe.monitor.screen.graph.drawing import Box, Canvas, Stroke
from zpipe.monitor.screen.graph.layers import Edge, Layers, layers
from zpipe.monitor.screen.graph.layout import Plan, Sizing, plan
from zpipe.monitor.screen.pane import (
    Cell,
    Choice,
    Pane,
    Region,
    Shown,
    View,
    beside,
    dead_letters,
    depth_spark,
    depth_style,
    dot,
    fill_bar,
    gauge,
    keyed_table,
    known_instances,
    link_name,
    link_words,
    main_share,
    safe,
    share_bar,
    spark,
    state_of,
)
from zpipe.monitor.screen.views.events_view import event_lines
from zpipe.monitor.screen.views.stage_view import summary
from zpipe.monitor.table.columns import LEFT, Column, Line, clip, width_of, wrap

SIDE_FROM, SIDE = 150, 46
BELOW_FROM = 28
MOST_BELOW, LEAST_BELOW = 8, 5
TIMES = "\u00d7"
RATE, BAR = len("99.9k/s"), 6
"""Cells for what a box of one line says after the name: its rate, and a short bar."""
WHOLE_SHARE = len("99.9k/s 100% retrying")
"""From this room in a box on, what a stage mostly does stands beside its rate with its percentage; else this follows the bar."""
PERCENT = len(" 100%")


def view(shown: Shown, choice: Choice, width: int, height: int) -> View:
    side_width = SIDE if width >= SIDE_FROM else 0
    stages = shown.value["stages"]
    names = [name for name in stages if choice.passes(name)]
    chosen = choice.row.get(1, "")
    drawn = choice.boxes and not choice.filter()
    below = _below(shown, width, min(MOST_BELOW, height // 4)) if height >= BELOW_FROM - 6 else None
    pane = None
    if drawn:
        # Boxes with edges are worth the panel below them; boxes of one line are not.
        for most in dict.fromkeys((len(below.lines) if below else 0, LEAST_BELOW if below else 0, 0)):
            room = height - most
            found = _plan(shown, width - side_width, room)
            if found is not None and found[1]:
                below = _below(shown, width, most)
                pane = _graph(shown, chosen, found, width - side_width, room)
                break
        if pane is None:
            room = height - (len(below.lines) if below else 0)
            found = _plan(shown, width - side_width, room) or _plan(shown, width - side_width, height)
            if found is not None:
                below = below if found[0].height <= room else None
                pane = _graph(shown, chosen, found, width - side_width, min(room, height))
    if pane is None:
        pane = _list(shown, names, chosen, width - side_width)
    room = height - (len(below.lines) if below else 0)
    side = None
    if side_width:
        name = _stage_of(chosen, shown) or (shown.value["bottleneck"] or {}).get("stage") or next(iter(stages), "")
        said = _side(shown, name, room, SIDE - 3)
        edge = "| " if shown.ascii else "│ "
        side = Pane([[(edge, "dim"), *line] for line in [*said, *([[]] * (room - len(said)))]])
    return View(pane, side, side_width, below)


def _stage_of(key: str, shown: Shown) -> str:
    kind, _, name = key.partition(":")
    if kind == "stage" and name in shown.value["stages"]:
        return name
    if kind == "link":
        return next((link["to"] for link in shown.value["links"] if link_name(link) == name), "")
    return ""


# ---- the graph


def _edges(value: dict[str, Any]) -> tuple[Edge, ...]:
    return tuple(dict.fromkeys((link["from"], link["to"]) for link in value["links"]))


@lru_cache(maxsize=4)
def _layers(names: tuple[str, ...], edges: tuple[Edge, ...]) -> Layers:
    return layers(names, edges)


@lru_cache(maxsize=32)
def best_plan(
    names: tuple[str, ...], edges: tuple[Edge, ...], instances: tuple[int, ...], width: int, height: int
) -> tuple[Plan, int] | None:
    """The plan whose boxes say the most and that fits, with the lines in a box (0: one line without edges)."""
    made = _layers(names, edges)
    longest = _longest(names, instances)
    narrow = max(longest + 7, 20)
    widths = ((max(narrow, 26), 6, 2), (max(narrow, 22), 6, 1), (narrow, 5, 1), (narrow, 5, 0))
    best: tuple[int, Sizing, Plan] | None = None
    for lines in (6, 4, 3, 2):
        for box_width, label, between in widths[:2] if lines == 6 else widths:
            sizing = Sizing(box_width, lines + 2, label, between)
            # Another line in each box is not worth another band.
            found = plan(made, sizing, width, height, best[0] - 1 if best else None)
            if found is not None:
                best = found.bands, sizing, found
    if best is not None:
        _, sizing, found = best
        return _stretched(made, sizing, found, width, height), sizing.box_height - 2
    for more in (RATE + 1 + BAR, RATE + 1, 4, 0):
        if best is not None and more <= RATE:
            break  # a rate in each box is worth another band
        for label in (5, 4, 0):
            sizing = Sizing(longest + 2 + more, 1, label, 0)
            found = plan(made, sizing, width, height, best[0] - 1 if best else None)
            if found is not None:
                best = found.bands, sizing, found
    return (_stretched(made, best[1], best[2], width, height), 0) if best is not None else None


def _longest(names: Sequence[str], instances: Sequence[int]) -> int:
    """Of names with the number of instances, also where some do not run ("work 12/64")."""
    return max(
        (len(name) + (2 * len(str(n)) + 2 if n > 1 else 0) for name, n in zip(names, instances, strict=True)), default=0
    )


def _instances(value: dict[str, Any]) -> tuple[int, ...]:
    return tuple(len(stage["instances"]) + len(stage["absent"]) for stage in value["stages"].values())


def _stretched(made: Layers, sizing: Sizing, found: Plan, width: int, height: int) -> Plan:
    """With wider gaps, boxes and rows as far as there is room, so that a large window is used."""
    for stretch, wider, apart in (
        (16, 8, 2),
        (12, 6, 2),
        (8, 4, 1),
        (6, 2, 1),
        (4, 0, 1),
        (3, 0, 0),
        (2, 0, 0),
        (0, 0, 1),
    ):
        tried = plan(
            made,
            sizing._replace(
                stretch=stretch,
                box_width=sizing.box_width + (wider if sizing.box_height > 1 else 0),
                between=sizing.between + (apart if sizing.box_height > 1 else min(apart, 1)),
            ),
            width,
            height,
            found.bands,
        )
        if tried is not None:
            return tried
    return found


def _plan(shown: Shown, width: int, height: int) -> tuple[Plan, int] | None:
    value = shown.value
    return best_plan(tuple(value["stages"]), _edges(value), _instances(value), width - 2, height)


def _graph(shown: Shown, chosen: str, found: tuple[Plan, int], width: int, height: int) -> Pane:
    value = shown.value
    drawn, lines = found
    canvas = Canvas(drawn.width, drawn.height, shown.ascii)
    canvas.links(drawn, {edge: _stroke(value, edge, f"link:{chosen}") for edge in drawn.routes})
    for name, rect in drawn.boxes.items():
        canvas.box(rect, _box(shown, name, lines, rect.width, chosen == f"stage:{name}"))
    left, top = max((width - drawn.width) // 2, 0), max((height - drawn.height) // 2, 0)
    pane = Pane([[] for _ in range(top)])
    pane.lines += [[(" " * left, ""), *line] for line in canvas.lines()]
    for name, rect in drawn.boxes.items():
        pane.regions.append(Region(f"stage:{name}", left + rect.x, top + rect.y, rect.width, rect.height))
    for (start, end), route in drawn.routes.items():
        link = next(link for link in value["links"] if (link["from"], link["to"]) == (start, end))
        x, y = (route.label[0], route.label[1]) if route.label else route.points[-1]
        room = route.label[2] if route.label else 1
        pane.links.append(Region(f"link:{link_name(link)}", left + x, top + y, room, 1))
    return pane


def _stroke(value: dict[str, Any], edge: Edge, chosen: str) -> Stroke:
    links = [link for link in value["links"] if (link["from"], link["to"]) == edge]
    depth = sum(link["depth"] for link in links)
    worst = max(links, key=lambda link: gauge(link)[0])
    part, style = gauge(worst)
    flows = any(link["rate"] for link in links)
    gravity = {"good": 2, "warm": 3, "bad": 4}[style] if depth else 1 if flows else 0
    heavy = max(part, 0.12) if depth and part >= 0.02 else 0.0
    return Stroke("line" if flows else "dim", style if depth else "line", heavy, gravity, count(depth) if depth else "")


def _box(shown: Shown, name: str, lines: int, width: int, chosen: bool) -> Box:
    stage = shown.value["stages"][name]
    bottleneck = shown.value["bottleneck"] or {}
    is_limit = bottleneck.get("stage") == name
    state = state_of(stage)
    many = known_instances(stage)
    number = f" {'x' if shown.ascii else TIMES}{many}" if many > 1 else ""
    if stage["live"] != many and stage["state"] != "STOPPED":
        number = f" {stage['live']}/{many}"
    if many == 1 and len(name) + len(number) > width - 7:
        number = ""  # its state says it
    short = stage["live"] != many and stage["state"] not in ("STOPPED", "UNHEARD")
    style = "bad" if state[1] == "bold bad" else "warm" if is_limit and bottleneck["kind"] != "source" else "line"
    name_style = "bold reverse" if chosen else f"bold {style}" if style != "line" else "bold"
    title: Line = [dot(state, shown.glyphs), (" ", ""), (name, name_style), (number, "bad" if short else "dim")]
    dead = dead_letters(stage)
    left: Line = [(f"{'x' if shown.ascii else '✖'}{count(dead)}", "bold bad")] if dead else []
    word = "the limit" if bottleneck.get("kind") not in ("down", "held", "paused") else ""
    right: Line = [(word, f"bold {style}" if style != "line" else "dim")] if is_limit and word else []
    inner = width - 4
    if lines == 0:
        # What they say begins in the same cell everywhere, and is the same: a rate with a bar, a rate, or a bar.
        names = 2 + _longest(tuple(shown.value["stages"]), _instances(shown.value))
        title.append((" " * (names - width_of(title)), ""))
        inner = width - max(names, width_of(title)) - 1
    heavy = style != "line" or chosen
    return Box(
        title, _box_lines(shown, name, stage, state, lines, inner), (left, right), "accent" if chosen else style, heavy
    )


def _box_lines(
    shown: Shown, name: str, stage: dict[str, Any], state: tuple[str, str], lines: int, inner: int
) -> list[Line]:
    works = state[0] in ("running", "draining", "starting", "flushed")
    if not works and not (stage["live"] and state[0] in ("silent", "absent")):  # those that are left have figures
        if lines == 0:
            return [[(state[0] if len(state[0]) <= inner else "", state[1])]]  # the dot before its name says it too
        return _why_not(stage, state, lines, inner)
    rate = "?/s" if stage["rate_out"] is None else f"{count(stage['rate_out'])}/s"
    share = main_share(stage)
    percent, _, word = share[0].rpartition(" ")
    said = (word if inner < WHOLE_SHARE else share[0], share[1]) if state[0] == "running" else state
    if lines == 0:
        if inner < RATE or len(rate) > inner:  # a figure that is cut is a wrong one
            return [share_bar(stage["budget"], max(inner, 0), shown.glyphs)]
        cells = min(inner - RATE, BAR)
        return [[(rate.ljust(RATE), "bold"), *(share_bar(stage["budget"], cells, shown.glyphs) if cells >= 3 else [])]]
    made: list[Line] = [[(rate, "bold"), (" " * max(inner - len(rate) - len(said[0]), 1), ""), said]]
    if inner < WHOLE_SHARE:
        bar = share_bar(stage["budget"], inner - PERCENT, shown.glyphs)
        made.append([*bar, (percent.rjust(PERCENT), share[1])])
    else:
        made.append(share_bar(stage["budget"], inner, shown.glyphs))
    latency = stage["latency"].get("in_stage") or {}
    if stage["progress"] is not None:
        progress = stage["progress"]
        done, total = progress["finished"], progress["total"]
        text = f"{100 * done / total:.0f}% of {count(total)}" if total else f"{count(done)} done"
        made.append([(text[:inner], "dim")])
    elif latency.get("p99_s"):
        p50 = f"p50 {precise(latency['p50_s'])}  " if latency.get("p50_s") and inner >= 20 else ""
        made.append([(f"{p50}p99 {precise(latency['p99_s'])}"[:inner], "dim")])
    else:
        made.append([])
    if lines >= 6:
        memory = size(stage["rss_bytes"]) if stage["rss_bytes"] is not None else ""
        incoming = (
            "" if stage["rate_in"] is None or stage["progress"] is not None else f"in {count(stage['rate_in'])}/s"
        )
        made.append([(f"{incoming}{' ' * max(inner - len(incoming) - len(memory), 1)}{memory}"[:inner], "dim")])
        made.append([])
    if lines >= 4:
        made.append(spark(shown.history.rates(name), inner, shown.glyphs))
    return made[:lines]


def _why_not(stage: dict[str, Any], state: tuple[str, str], lines: int, inner: int) -> list[Line]:
    """Instead of figures: its state and why it does not work."""
    word = state[0]
    if word == "silent" and stage["stale_s"] is not None:
        word = f"silent {duration(stage['stale_s'])}"
    made: list[Line] = [[(word[:inner], state[1])]]
    reasons = list((stage["stopped_by"] | stage["held_by"]).values())
    why = wrap(safe(reasons[0]), inner, "dim", indent="") if reasons else []
    # Half a reason is a riddle: where it has no room, the sentence on top has all of it.
    return made + why if len(why) < lines else made


# ---- where boxes have no room


LIST = (
    Column("", LEFT, name=False),
    Column("stage", LEFT, name=True),
    Column("rate"),
    Column("time spent", LEFT, rank=3),
    Column("mostly", LEFT, rank=1),
    Column("waiting", rank=0.3),
    Column("fill", LEFT, rank=2),
    Column("from", LEFT, rank=4),
    Column("dead", sparse=True, rank=0.5),
)


def _list(shown: Shown, names: Sequence[str], chosen: str, width: int) -> Pane:
    """A stage a line, in the order of the config, with what waits for it."""
    value = shown.value
    rows: list[tuple[str, list[Cell]]] = []
    limit = (value["bottleneck"] or {}).get("stage")
    for name in names:
        stage = value["stages"][name]
        state, into = state_of(stage), [link for link in value["links"] if link["to"] == name]
        fullest = max(into, key=lambda link: gauge(link)[0], default=None)
        depth = sum(link["depth"] for link in into)
        share = main_share(stage) if state[0] == "running" else state
        dead = dead_letters(stage)
        rate = "" if stage["rate_out"] is None or not stage["live"] else f"{count(stage['rate_out'])}/s"
        cells: list[Cell] = [
            dot(state, shown.glyphs),
            (name, "bold warm" if name == limit else "bold"),
            (rate, ""),
            share_bar(stage["budget"] if stage["live"] else None, 10, shown.glyphs),
            share,
            (count(depth) if into else "", gauge(fullest)[1] if depth and fullest else "dim"),
            fill_bar(fullest, 10, shown.glyphs) if fullest else ("", ""),
            (", ".join(link["from"] for link in into), "dim"),
            (count(dead) if dead else "", "bad"),
        ]
        rows.append((f"stage:{name}", cells))
    head, lines = keyed_table(LIST, rows, width, shown.glyphs)
    pane = Pane(head=[head])
    for key, line in lines:
        pane.add(line, key)
    pane.mark(chosen, width)
    return pane


# ---- beside and below


def _side(shown: Shown, name: str, height: int, width: int) -> list[Line]:
    if not name:
        return []
    return [clip(line, width) for line in summary(shown, name, width)][:height]


def _below(shown: Shown, width: int, most: int) -> Pane | None:
    """The fullest links with how they went, and what happened last."""
    if most < 3:
        return None
    value, glyphs = shown.value, shown.glyphs
    left_width = width // 2 - 2
    links = sorted(value["links"], key=lambda link: (-gauge(link)[0], -link["depth"]))[: most - 2]
    name_width = max((len(link_words(link, glyphs)) for link in links), default=0)
    left: list[Line] = [[("what waits, and how that went", "title")]]
    for link in links:
        room = min(max(left_width - name_width - 8, 0), 60)
        name, depth = link_words(link, glyphs).ljust(name_width), f"{count(link['depth']).rjust(6)}  "
        left.append([(name, ""), (depth, depth_style(link)), *depth_spark(shown, link, room)])
    right: list[Line] = [[("what happened", "title")]]
    room = width - left_width - 4
    for event in list(shown.events)[-(most - 2) :][::-1]:
        made = event_lines(event, room)
        if len(right) + len(made) > most - 1 and len(right) > 1:
            break  # whole sentences, or none
        right += made[: most - 2]
    rule = ("-" if shown.ascii else "─") * width
    lines = [[(rule, "dim")], *([(" ", ""), *line] for line in beside(left, right, left_width))]
    return Pane([clip(line, width) for line in lines])
