"""The rows of the status: the cells of a stage and of a link, and their columns. Must not live here: how wide a column is
(`columns`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zpipe.monitor.formatting import count, duration, percent, precise, share, size
from zpipe.monitor.table.columns import LEFT, Column, Span
from zpipe.monitor.table.glyphs import Glyphs, bar, trend_arrow

STATES = {
    "RUNNING": ("run", "green"),
    "STARTING": ("start", "yellow"),
    "DRAINING": ("drain", "yellow"),
    "FLUSHED": ("flush", "yellow"),
    "STOPPED": ("stop", "dim"),
    "SILENT": ("silent", "bold red"),
    "ABSENT": ("absent", "bold red"),
    "UNHEARD": ("unheard", "yellow"),
    "FAILED": ("failed", "bold red"),
}
HALTED = {"held": ("held", "bold red"), "paused": ("paused", "yellow")}
SHARE_LABELS = {"waiting": "wait", "working": "work", "blocked": "blkd", "limited": "lim", "retrying": "rtry"}
NARROW_BAR, WIDE_BAR = 5, 12
EMPTY: Span = ("", "")

STAGE_COLUMNS = (
    Column("STAGE", LEFT, name=True),
    Column("STATE", LEFT, rank=0.2),
    Column("N", rank=5),
    Column("IN/s", rank=0.5),
    Column("OUT/s", rank=0.4),
    Column("WORK", rank=0.3),
    Column("WAIT", rank=4),
    Column("BLKD", rank=0.6),
    Column("LIM", sparse=True, rank=3),
    Column("RTRY", sparse=True, rank=3),
    Column("CALLS", sparse=True, rank=6),
    Column("ERR", sparse=True, rank=2),
    Column("DEAD", sparse=True, rank=0.45),
    Column("CRASH", sparse=True, rank=0.47),
    Column("P50", rank=9, sparse=True),
    Column("P99", rank=7, sparse=True),
    Column("RSS", rank=10),
)
LINK_COLUMNS = (
    Column("LINK", LEFT, name=True),
    Column("DEPTH"),
    Column("FILL", LEFT, rank=3),
    Column("", LEFT, rank=2),
    Column("OLDEST", rank=2),
    Column("IN/s", rank=0.5),
    Column("WILL BE", LEFT, rank=1),
    Column("UNSENT", rank=8),
    Column("ON WAY", rank=8),
    Column("QUEUED", rank=8),
    Column("BATCH", rank=9, sparse=True),
    Column("UNACKED", rank=10),
    Column("REST", rank=7, sparse=True),
    Column("BYTES", rank=11),
)
# The two side by side, a stage and the first link into it in one row, where there is no height for both.
SHORT_STAGE_COLUMNS = (
    Column("STAGE", LEFT, name=True),
    Column("STATE", LEFT, rank=0.3),
    Column("N", rank=5, sparse=True),
    Column("IN/s", rank=2),
    Column("OUT/s", rank=0.5),
    Column("BUSY", LEFT, rank=0.4),
    Column("ERR", sparse=True, rank=2),
    Column("DEAD", sparse=True, rank=0.45),
    Column("CRASH", sparse=True, rank=0.47),
)
SHORT_LINK_COLUMNS = (
    Column("FROM", LEFT, rank=0.2, name=True),
    Column("DEPTH", rank=0.1),
    Column("FILL", LEFT, rank=4),
    Column("", LEFT, rank=2),
    Column("OLD", rank=3),
    Column("WILL BE", LEFT, rank=1),
)


def state_of(stage: dict[str, Any]) -> Span:
    """A word, and for how long nothing was heard of one that is silent."""
    if stage["halted"]:  # Whatever its state is, it does not work. Why it is held stands below the table.
        return HALTED[stage["halted"]]
    word, style = STATES[stage["state"]]
    if stage["state"] == "SILENT" and stage["stale_s"] is not None:
        word = f"{word} {duration(stage['stale_s'])}"
    return word, style


def _instances(stage: dict[str, Any]) -> Span:
    known, unheard = len(stage["instances"]) + len(stage["absent"]), len(stage["unheard"])
    if stage["live"] == known + unheard:
        return str(known), ""
    well = stage["state"] == "STOPPED" or stage["live"] == known
    return f"{stage['live']}/{known + unheard}", "" if well else "bold red"


def _known(shown: Callable[[float], str], figure: float | None) -> str:
    """Empty if an instance does not publish the figure, since 0 would be a figure."""
    return "" if figure is None else shown(figure)


def _errors(stage: dict[str, Any]) -> Span:
    errors = stage["retries"] + stage["malformed"]
    return count(errors), "yellow" if errors else ""


def _dead(stage: dict[str, Any]) -> Span:
    """Those that are stored, which wait for somebody to look at them. If a stage does not publish them, those since its start."""
    dead = stage["dead"] if stage["dead_stored"] is None else stage["dead_stored"]
    return count(dead), "bold red" if dead else ""


def _crashes(stage: dict[str, Any]) -> Span:
    """Of its instances and of their worker processes."""
    crashes = sum(stage["restarts"].values()) + sum(stage["worker_restarts"].values())
    return (count(crashes), "bold red") if crashes else EMPTY


def stage_cells(name: str, stage: dict[str, Any]) -> list[Span]:
    """For STAGE_COLUMNS. What is not known now is left empty, so that an old figure never looks current."""
    head = [(name, ""), state_of(stage), _instances(stage)]
    if not stage["instances"]:
        return head + [EMPTY] * (len(STAGE_COLUMNS) - len(head))
    troubles = [_errors(stage), _dead(stage), _crashes(stage)]
    if not stage["live"]:
        blank = [EMPTY] * (len(STAGE_COLUMNS) - len(head) - len(troubles) - 3)
        return [*head, *blank, *troubles, EMPTY, EMPTY, EMPTY]
    budget, latency = stage["budget"], stage["latency"].get("in_stage", {})
    limit = "" if stage["limit"] is None else count(stage["limit"])
    figures = [_known(count, stage["rate_in"]), _known(count, stage["rate_out"])]
    if budget is None:
        figures += [""] * 5
    else:
        figures += [share(budget[key]) for key in ("working", "waiting", "blocked")]
        figures += [percent(budget[key]) for key in ("limited", "retrying")]
    figures.append(limit)
    tail = [precise(latency[p]) if latency.get(p) else "" for p in ("p50_s", "p99_s")]
    tail.append(_known(size, stage["rss_bytes"]))
    return [*head, *((text, "") for text in figures), *troubles, *((text, "") for text in tail)]


def short_stage_cells(name: str, stage: dict[str, Any]) -> list[Span]:
    """For SHORT_STAGE_COLUMNS. BUSY is the largest share of the time budget."""
    head = [(name, ""), state_of(stage), _instances(stage)]
    if head[2][0] == "1":
        head[2] = EMPTY
    if not stage["live"]:
        tail = [_errors(stage), _dead(stage), _crashes(stage)] if stage["instances"] else [EMPTY] * 3
        return [*head, EMPTY, EMPTY, EMPTY, *tail]
    budget = stage["budget"] or {}
    most = max(SHARE_LABELS, key=lambda one: budget.get(one, 0.0))
    busy = f"{SHARE_LABELS[most]} {share(budget[most])}" if budget else ""
    rates = [(_known(count, stage["rate_in"]), ""), (_known(count, stage["rate_out"]), "")]
    return [*head, *rates, (busy, ""), _errors(stage), _dead(stage), _crashes(stage)]


def upstream(link: dict[str, Any]) -> str:
    return f"{link['from']}.{link['outlet']}" if link["outlet"] else str(link["from"])


def _will_be(link: dict[str, Any]) -> Span:
    if link["stale_s"] is not None:
        return f"stale {duration(link['stale_s'])}", "bold red"
    if link["full_in_s"] is not None:
        return (f"full {duration(link['full_in_s'])}", "") if link["full_in_s"] else ("full now", "yellow")
    return (f"empty {duration(link['empty_in_s'])}", "") if link["empty_in_s"] else EMPTY


def _fill(link: dict[str, Any], width: int, glyphs: Glyphs) -> Span:
    part = link["depth"] / link["bound"] if link["bound"] else 0.0
    part = 1.0 if link["full_in_s"] == 0.0 else part
    return bar(part, width, glyphs), "red" if part > 0.9 else "yellow" if part > 0.5 else "green"


def _oldest(link: dict[str, Any]) -> str:
    return duration(link["oldest_s"]) if link["oldest_s"] else ""


def link_cells(link: dict[str, Any], glyphs: Glyphs) -> list[Span]:
    """For LINK_COLUMNS."""
    figures = [link["unsent"], link["under_way"], link["queued"], link["open_batch"], link["in_flight"]]
    return [
        (f"{upstream(link)} -> {link['to']}", ""),
        (count(link["depth"]), ""),
        _fill(link, WIDE_BAR, glyphs),
        (trend_arrow(link["slope"], glyphs), ""),
        (_oldest(link), ""),
        ("" if link["rate"] is None else count(link["rate"]), ""),
        _will_be(link),
        *((count(figure), "") for figure in figures),
        (count(link["remainder"]), ""),
        (_known(size, link["depth_bytes"]), ""),
    ]


def short_link_cells(link: dict[str, Any], glyphs: Glyphs) -> list[Span]:
    """For SHORT_LINK_COLUMNS."""
    return [
        (upstream(link), ""),
        (count(link["depth"]), ""),
        _fill(link, NARROW_BAR, glyphs),
        (trend_arrow(link["slope"], glyphs), ""),
        (_oldest(link), ""),
        _will_be(link),
    ]
