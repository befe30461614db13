"""View 4: the links, and the last fifteen minutes of the chosen one as a filled plot. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from zpipe.monitor.formatting import count, duration, precise, size
from zpipe.monitor.model.history import KEPT_S, Depth, link_key
from zpipe.monitor.screen.pane import (
    Cell,
    Choice,
    Pane,
    Shown,
    View,
    depth_spark,
    depth_style,
    fill_bar,
    flow,
    gauge,
    keyed_table,
    link_name,
    link_words,
)
from zpipe.monitor.screen.views.table_view import soon
from zpipe.monitor.table.columns import LEFT, Column, Line

COLUMNS = (
    Column("link", LEFT, name=True),
    Column("waiting"),
    Column("of", rank=2),
    Column("fill", LEFT, rank=0.9),
    Column("msgs/s", rank=1),
    Column("oldest", rank=1.5),
    Column("soon", LEFT, rank=0.8),
    Column("lately", LEFT, rank=3),
)
SORTS = ("config", "fullest", "waiting", "rate", "oldest")
EIGHTHS = " ▁▂▃▄▅▆▇█"
AXIS = 8
SPANS = ((60, 15), (120, 30), (300, 60), (600, 120), (int(KEPT_S), 180))
"""Seconds that a plot may span, and those between two times that are written under it."""


def view(shown: Shown, choice: Choice, width: int, height: int) -> View:
    links = [link for link in shown.value["links"] if choice.passes(link["from"], link["to"])]
    sort = SORTS[choice.sort.get(4, 0) % len(SORTS)]
    orders = {
        "fullest": lambda link: -gauge(link)[0],
        "waiting": lambda link: -link["depth"],
        "rate": lambda link: -(link["rate"] or 0.0),
        "oldest": lambda link: -(link["oldest_s"] or 0.0),
    }
    if sort in orders:
        links.sort(key=orders[sort])
    pane = Pane()
    if not links:
        why = " that the filter lets through" if choice.filter() else ": the pipeline is one stage"
        pane.add([(f" no link{why}", "dim")])
        return View(pane)
    chosen = chosen_link(shown, choice)
    room = max(len(links) + 1, 1)
    plot_height = height - min(room, max(height // 2, 6))
    if plot_height < 8:
        plot_height = 0
    rows = [(f"link:{link_name(link)}", _row(shown, link)) for link in links]
    head, lines = keyed_table(COLUMNS, rows, width, shown.glyphs)
    pane.head = [head]
    for key, line in lines:
        pane.add(line, key)
    pane.mark(f"link:{link_name(chosen)}", width)
    below = None
    if plot_height:
        details = _details(shown, chosen, width)[: max(1, plot_height - 8)]
        plot = plot_lines(
            shown.history.depths(link_key(chosen)), chosen["bound"], width - 2, plot_height - len(details), shown
        )
        below = Pane([*details, *plot])
    return View(pane, below=below)


def chosen_link(shown: Shown, choice: Choice) -> dict[str, Any]:
    """The one that was chosen last; else the fullest."""
    links: Sequence[dict[str, Any]] = shown.value["links"]
    for key in (choice.row.get(4, ""), f"link:{choice.link}"):
        for link in links:
            if f"link:{link_name(link)}" == key:
                return link
    return max(links, key=lambda link: gauge(link)[0])


def _row(shown: Shown, link: dict[str, Any]) -> list[Cell]:
    return [
        (link_words(link, shown.glyphs), ""),
        (count(link["depth"]), depth_style(link)),
        ("" if link["bound"] is None else count(link["bound"]), "dim"),
        fill_bar(link, 14, shown.glyphs),
        ("" if link["rate"] is None else count(link["rate"]), ""),
        (duration(link["oldest_s"]) if link["oldest_s"] else "", ""),
        soon(link),
        depth_spark(shown, link, 30),
    ]


def _details(shown: Shown, link: dict[str, Any], width: int) -> list[Line]:
    """The chosen link in figures, then each producer and consumer."""
    full = "#" if shown.ascii else "█"
    bound = f" of {count(link['bound'])}" if link["bound"] else ""
    parts: list[Line] = [
        [(link_words(link, shown.glyphs), "bold title")],
        [(f"{count(link['depth'])}{bound} wait", "")],
        [(full, "accent"), (f" at the receiver {count(link['queued'])}", "")],
        [(full, "warm"), (f" at the sender {count(link['unsent'])}, under way {count(link['under_way'])}", "")],
    ]
    if link["oldest_s"]:
        parts.append([(f"oldest {duration(link['oldest_s'])}", "")])
    if link["depth_bytes"]:
        parts.append([(size(link["depth_bytes"]), "dim")])
    rows: list[Line] = [[(("-" if shown.ascii else "─") * width, "dim")]]
    rows += [[(" ", ""), *line] for line in flow(parts, width - 2)]
    makers, takers, buffers = [], [], []
    troubles: dict[str, None] = {}
    filled: dict[str, Any] = {}
    stages = shown.value["stages"]
    outlet = link["outlet"]
    for one in stages[link["from"]]["instances"]:
        for row in one["links"]:
            if (row.get("to"), row.get("outlet", "")) == (link["to"], outlet):
                held = f"{count(row['unsent'])} unsent, {count(row['in_flight'])} in flight"
                makers.append(f"{link['from']}.{one['instance']} {held}")
                buffers += _buffer(f"{link['from']}.{one['instance']}", row.get("buffer", {}))
                troubles |= {trouble: None} if (trouble := row.get("jetstream", {}).get("trouble")) else {}
    for one in stages[link["to"]]["instances"]:
        of = [
            row for row in one.get("sessions", ()) if (row.get("from"), row.get("outlet", "")) == (link["from"], outlet)
        ]
        if of:
            filled = next((row["stream"] for row in of if row.get("stream")), filled)
            takers.append(f"{link['to']}.{one['instance']} {count(sum(row.get('queued', 0) for row in of))} queued")
    streams = [*([_stream(filled)] if filled else []), *troubles]
    for word, texts in (("producers", makers), ("buffers  ", buffers), ("stream   ", streams), ("consumers", takers)):
        if texts:
            text = ";  ".join(texts)
            rows.append([(f" {word} ", "dim"), (text if len(text) <= width - 13 else f"{text[: width - 16]}...", "")])
    return rows


def _stream(stream: dict[str, Any]) -> str:
    """What is in the stream of a link, as one of its consumers was told last."""
    parcels = f"{count(stream.get('parcels', 0))} parcels, {size(stream.get('bytes', 0))}"
    return f"{count(stream.get('messages', 0))} messages in {parcels}, {count(stream.get('ack_pending', 0))} with consumers"


def _buffer(name: str, buffer: dict[str, Any]) -> list[str]:
    """What is to be said of a producer's disk buffer, if it has one."""
    if not buffer:
        return []
    parts = [f"{name} {count(buffer.get('stored', 0))} stored, {size(buffer.get('disk_bytes', 0))} on the disk"]
    parts += [f"sync {precise(buffer['sync_s'])}"] if buffer.get("sync_s") else []
    parts += [f"{count(buffer['unreadable'])} unreadable"] if buffer.get("unreadable") else []
    parts += [f"{count(buffer['lost'])} lost"] if buffer.get("lost") else []
    parts += [f"{count(buffer['bad'])} damaged places"] if buffer.get("bad") else []
    parts += [str(buffer["trouble"])] if buffer.get("trouble") else []
    return [", ".join(parts)]


def plot_lines(points: Sequence[Depth], bound: float | None, width: int, height: int, shown: Shown) -> list[Line]:
    """The depth over time as an area: the receiver's part below, the sender's on it, the bound as a line."""
    if not points or height < 3:
        return [[(" nothing is known of it yet", "dim")]]
    columns = width - AXIS - 1
    rows = height - 1
    span, step = next((one for one in SPANS if one[0] >= points[-1].at - points[0].at), SPANS[-1])
    filled = _columns(points, points[-1].at - span, span, columns)
    most = max([one[0] + one[1] for one in filled if one is not None] + [1])
    top, ticks = scale(max(most, bound) if bound and most > bound / 4 else most, rows)
    taken = "" if bound is None else count(bound)
    labels = {rows - round(rows * tick / top): count(tick) for tick in ticks if count(tick) != taken}
    lines: list[Line] = []
    for row in range(rows):
        high, low = top * (rows - row) / rows, top * (rows - row - 1) / rows
        mark = bound is not None and low < bound <= high
        label = taken if mark else labels.get(row, "")
        line: Line = [(label.rjust(AXIS - 1) + " ", "bad" if mark else "dim")]
        for one in filled:
            line.append(_cell(one, low, high, mark, shown.ascii))
        lines.append(_joined(line))
    lines.append([(" " * AXIS + _times(span, step, columns), "dim")])
    return lines


def scale(most: float, rows: int) -> tuple[float, list[float]]:
    """The top of an axis that reaches `most`, and the round numbers to be written on it, from the lowest on."""
    wanted = max(most / min(max(rows // 3, 2), 5), 1.0)
    unit = 10.0 ** math.floor(math.log10(wanted))
    step = next(part * unit for part in (1, 2, 5, 10) if part * unit >= wanted * 0.999)
    ticks = max(math.ceil(most / step - 0.001), 1)
    return ticks * step, [step * tick for tick in range(1, ticks + 1)]


def _times(span: int, step: int, columns: int) -> str:
    """The time axis: how long ago, in round numbers."""
    text = [" "] * columns
    for ago in range(span, -1, -step):
        word = "now" if not ago else f"{ago // 60}m" if ago % 60 == 0 and ago > 60 else f"{ago}s"
        word += " ago" if ago == span else ""
        at = min(round((span - ago) / span * (columns - 1)), columns - len(word))
        text[at : at + len(word)] = word
    return "".join(text)


def _columns(points: Sequence[Depth], start: float, span: float, columns: int) -> list[tuple[float, float] | None]:
    """(receiver, sender) for each column: the largest depth of its time, or that of the column before."""
    found: list[tuple[float, float] | None] = [None] * columns
    for point in points:
        at = int((point.at - start) / span * (columns - 1))
        if 0 <= at < columns:
            known = found[at]
            if known is None or point.sender + point.receiver > sum(known):
                found[at] = float(point.receiver), float(point.sender)
    last = None
    for at, one in enumerate(found):
        if one is None:
            found[at] = last
        else:
            last = one
    return found


def _cell(one: tuple[float, float] | None, low: float, high: float, mark: bool, ascii_only: bool) -> tuple[str, str]:
    empty = ("-" if ascii_only else "─", "bad") if mark else (" ", "")
    if one is None:
        return empty
    receiver, total = one[0], one[0] + one[1]
    if receiver >= high:
        return ("#" if ascii_only else "█"), "accent"
    if total <= low:
        return empty
    style = "warm" if one[1] and receiver <= (low + high) / 2 else "accent"
    part = min((total - low) / (high - low), 1.0)
    if ascii_only:
        return ("#" if part > 0.5 else "."), style
    return EIGHTHS[max(1, round(part * 8))], style


def _joined(line: Line) -> Line:
    made: Line = []
    for text, style in line:
        if made and made[-1][1] == style:
            made[-1] = (made[-1][0] + text, style)
        else:
            made.append((text, style))
    return made
