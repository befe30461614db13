"""View 2: every stage and every link a row, in plain words. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zpipe.monitor.formatting import count, duration, precise, size
from zpipe.monitor.screen.pane import (
    Cell,
    Choice,
    Pane,
    Region,
    Shown,
    View,
    dead_letters,
    depth_style,
    dot,
    fill_bar,
    keyed_table,
    known_instances,
    link_name,
    link_words,
    main_share,
    share_bar,
    spark,
    state_of,
)
from zpipe.monitor.table.columns import LEFT, Column, Line, wrap

STAGES = (
    Column("stage", LEFT, name=True),
    Column("", LEFT),
    Column("state", LEFT, rank=0.5),
    Column("instances", rank=5),
    Column("in/s", rank=3),
    Column("out/s", rank=0.2),
    Column("time spent", LEFT, rank=1.5),
    Column("mostly", LEFT, rank=0.4),
    Column("retries", rank=4, sparse=True),
    Column("dead", rank=0.45, sparse=True),
    Column("restarts", rank=0.47, sparse=True),
    Column("p50", rank=9),
    Column("p99", rank=2),
    Column("memory", rank=10),
    Column("lately", LEFT, rank=11),
)
LINKS = (
    Column("link", LEFT, name=True),
    Column("waiting"),
    Column("of", rank=2),
    Column("fill", LEFT, rank=0.9),
    Column("oldest", rank=1.5),
    Column("msgs/s", rank=1),
    Column("soon", LEFT, rank=0.8),
    Column("at sender", rank=5),
    Column("under way", rank=5),
    Column("at receiver", rank=5),
    Column("unacked", rank=8),
    Column("bytes", rank=9),
)
Order = Callable[[str, dict[str, Any], Sequence[dict[str, Any]]], Any]
SORTS: dict[str, Order] = {
    "config": lambda name, stage, into: 0,
    "name": lambda name, stage, into: name,
    "rate": lambda name, stage, into: -(stage["rate_out"] or 0.0),
    "busy": lambda name, stage, into: -(stage["budget"] or {}).get("working", 0.0),
    "waiting": lambda name, stage, into: -sum(link["depth"] for link in into),
    "p99": lambda name, stage, into: -((stage["latency"].get("in_stage") or {}).get("p99_s") or 0.0),
    "dead": lambda name, stage, into: -(stage["dead_stored"] or 0),
    "retries": lambda name, stage, into: -stage["retries"],
    "restarts": lambda name, stage, into: -sum(stage["restarts"].values()),
    "memory": lambda name, stage, into: -(stage["rss_bytes"] or 0),
}
"""What rows can be sorted by; equal ones stay in the order of the config."""
SORTED_BY = {"stage": "name", "out/s": "rate", "in/s": "rate", "time spent": "busy", "mostly": "busy"}
"""The order that a click on a head gives, where it is named otherwise."""
LEGEND = (
    (
        "time spent",
        "busy with the plugin, retrying failed calls, limited by `limit`, blocked by a full link, else idle",
    ),
    ("waiting", "messages that wait on a link: at the sender, under way, and at the receiver"),
    ("of", "its bound: at that many the sender has to wait"),
    ("soon", "full or empty, if it goes on so; stale: for how long an end was not heard"),
    ("unacked", "arrived, and given back neither finished nor failed"),
    ("dead", "letters stored: messages that the stage gave up on"),
)


def view(shown: Shown, choice: Choice, width: int, height: int) -> View:
    value = shown.value
    sort = list(SORTS)[choice.sort.get(2, 0) % len(SORTS)]
    into: dict[str, list[dict[str, Any]]] = {name: [] for name in value["stages"]}
    for link in value["links"]:
        into[link["to"]].append(link)
    names = sorted(into, key=lambda name: SORTS[sort](name, value["stages"][name], into[name]))
    limit = (value["bottleneck"] or {}).get("stage")
    rows = [
        (f"stage:{name}", _stage_row(shown, name, limit))
        for name in names
        if choice.passes(name, state_of(value["stages"][name])[0])
    ]
    head, lines = keyed_table(STAGES, rows, width, shown.glyphs)
    pane = Pane(head=[head], buttons=_heads(head))
    links = [link for name in names for link in into[name] if choice.passes(link["from"], link["to"])]
    link_rows = [(f"link:{link_name(link)}", _link_row(shown, link)) for link in links]
    link_head, link_lines = keyed_table(LINKS, link_rows, width, shown.glyphs)
    for key, line in lines:
        pane.add(line, key)
    pane.lines += [[], link_head] if links else []
    for key, line in link_lines:
        pane.add(line, key)
    room = height - len(pane.lines) - 2
    if choice.legend or room >= len(LEGEND) + 1:
        pane.lines += [[], *_legend(width)]
    pane.mark(choice.row.get(2, ""), width)
    return View(pane)


def _heads(head: Line) -> list[Region]:
    """What a click on each head sorts by."""
    found, x = [], 0
    for text, _ in head:
        word = text.strip()
        by = SORTED_BY.get(word, word)
        if by in SORTS:
            found.append(Region(f"sort:{by}", x, 0, len(text), 1))
        x += len(text)
    return found


def _stage_row(shown: Shown, name: str, limit: str | None) -> list[Cell]:
    stage, glyphs = shown.value["stages"][name], shown.glyphs
    state = state_of(stage)
    known = known_instances(stage)
    instances = str(known) if stage["live"] == known else f"{stage['live']} of {known}"
    latency = stage["latency"].get("in_stage") or {}
    word = state[0]
    if word == "silent" and stage["stale_s"] is not None:
        word = f"silent {duration(stage['stale_s'])}"

    def now(figure: float | None, words: Callable[[float], str]) -> Cell:
        """What is not known now is left empty, so that an old figure never looks current."""
        return ("" if figure is None or not stage["live"] else words(figure), "")

    dead = dead_letters(stage)
    restarts = sum(stage["restarts"].values()) + sum(stage["worker_restarts"].values())
    return [
        (name, "bold warm" if name == limit else "bold"),
        dot(state, glyphs),
        (word, state[1]),
        (instances, "" if stage["live"] == known or stage["state"] == "STOPPED" else "bad"),
        now(stage["rate_in"], count),
        now(stage["rate_out"], count),
        share_bar(stage["budget"] if stage["live"] else None, 12, glyphs),
        main_share(stage) if stage["live"] else ("", ""),
        (count(stage["retries"]), "warm" if stage["retries"] else "dim"),
        (count(dead), "bad" if dead else "dim"),
        (count(restarts), "warm" if restarts else "dim"),
        now(latency.get("p50_s") or None, precise),
        now(latency.get("p99_s") or None, precise),
        now(stage["rss_bytes"], size),
        spark(shown.history.rates(name), 24, glyphs),
    ]


def soon(link: dict[str, Any]) -> Cell:
    """What becomes of it if it goes on so."""
    if link["stale_s"] is not None:
        return f"stale {duration(link['stale_s'])}", "bold bad"
    if link["full_in_s"] is not None:
        return (f"full in {duration(link['full_in_s'])}", "warm") if link["full_in_s"] else ("full now", "bold bad")
    return (f"empty in {duration(link['empty_in_s'])}", "dim") if link["empty_in_s"] else ("", "")


def _link_row(shown: Shown, link: dict[str, Any]) -> list[Cell]:
    glyphs = shown.glyphs

    def figure(number: float | None) -> Cell:
        return ("" if number is None else count(number), "" if number else "dim")

    return [
        (link_words(link, glyphs), ""),
        (count(link["depth"]), depth_style(link)),
        ("" if link["bound"] is None else count(link["bound"]), "dim"),
        fill_bar(link, 12, glyphs),
        (duration(link["oldest_s"]) if link["oldest_s"] else "", ""),
        figure(link["rate"]),
        soon(link),
        figure(link["unsent"]),
        figure(link["under_way"]),
        figure(link["queued"]),
        figure(link["unacked"]),
        ("" if link["depth_bytes"] is None else size(link["depth_bytes"]), "dim"),
    ]


def _legend(width: int) -> list[Line]:
    lines: list[Line] = []
    for word, what in LEGEND:
        text = wrap(what, max(width - 15, 20), "dim", indent="")
        for at, line in enumerate(text):
            lines.append([((f" {word}" if at == 0 else "").ljust(14), "title"), *line])
    return lines
