"""View 3: one stage and its instances; and the summary of a stage that stands beside the graph. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from zpipe.config import StageConfig
from zpipe.core.ledger import COUNTS, OTHERS
from zpipe.fixture import to_json
from zpipe.monitor.formatting import count, crash_text, cut, duration, local_time, precise, size
from zpipe.monitor.model.halt import halt_of_instance
from zpipe.monitor.screen.pane import (
    SHARE_STYLES,
    SHARE_WORDS,
    SHARES,
    Cell,
    Choice,
    Pane,
    Shown,
    View,
    beside,
    depth_spark,
    depth_style,
    dot,
    fill_bar,
    flow,
    instances_words,
    join,
    keyed_table,
    link_words,
    main_share,
    safe,
    share_bar,
    spark,
    state_of,
)
from zpipe.monitor.screen.views.plugin_figures import plugin_figures, plugin_words
from zpipe.monitor.table.columns import LEFT, Column, Line, wrap

COLUMNS = (
    Column("instance", LEFT, name=True),
    Column("", LEFT),
    Column("state", LEFT, rank=1),
    Column("in/s", rank=3),
    Column("out/s", rank=0.2),
    Column("time spent", LEFT, rank=2),
    Column("mostly", LEFT, rank=0.5),
    Column("queued", rank=0.6),
    Column("in work", rank=5),
    Column("p50", rank=6),
    Column("p99", rank=1.5),
    Column("dead", rank=2.5, sparse=True),
    Column("retries", rank=4, sparse=True),
    Column("restarts", rank=2.2, sparse=True),
    Column("memory", rank=7),
    Column("pid", rank=8),
    Column("working on", LEFT, rank=9, sparse=True),
)
SORTS = ("number", "rate", "busy", "queued", "p99", "dead", "memory")
WIDE = 110
"""From this width on the latency stands beside the times."""
TALL, ROOMY = 20, 14
"""A window of so many lines, and so many left over by the instances, have room for more than a line of shares."""


def view(shown: Shown, choice: Choice, width: int, height: int) -> View:
    stages = shown.value["stages"]
    name = (
        choice.stage
        if choice.stage in stages
        else (shown.value["bottleneck"] or {}).get("stage") or next(iter(stages), "")
    )
    if not name:
        return View(Pane())
    stage = stages[name]
    pane = Pane(head=_top(shown, name, width, height))
    rows = list(_instances(shown, name, choice))
    head, lines = keyed_table(COLUMNS, rows, width, shown.glyphs)
    pane.head.append(head)
    for key, line in lines:
        pane.add(line, key)
        if key in choice.unfolded:
            number = int(key.rpartition(".")[2])
            if number in stage["silent"]:
                pane.lines.append(
                    [(f"     not heard for {duration(stage['stale_s'] or 0.0)}: what follows is that old", "bad")]
                )
            for text in instance_details(next(one for one in stage["instances"] if one["instance"] == number)):
                pane.lines += [[("     ", ""), *part] for part in wrap(text, width - 6, "dim")]
    if not rows:
        pane.add([(" no instance of it is heard of", "dim")])
    pane.mark(choice.row.get(3, ""), width)
    pane.lines += [*_metrics_lines(stage, width), [], *_config_lines(shown.config.stages[name], width)]
    return View(pane)


def _top(shown: Shown, name: str, width: int, height: int) -> list[Line]:
    stage, glyphs = shown.value["stages"][name], shown.glyphs
    state = state_of(stage)
    figures = _figures(stage)
    title: Line = [(" ", ""), dot(state, glyphs), (f" {name}  ", "bold title"), state]
    more = [figures, [("[ ]", "bold accent"), (" other stages", "dim")]]
    lines = flow([title, *(more if width >= 100 else more[:1])], width)
    for what, found in (("takes no more", stage["stopped_by"]), ("is held up", stage["held_by"])):
        for why in dict.fromkeys(found.values()):
            names = ", ".join(one for one, its in found.items() if its == why)
            lines += [[(" ", ""), *line] for line in wrap(f"{names} {what}: {why}", width - 2, "bold bad")][:2]
    if crash := stage["last_crash"]:
        text = f"{name}.{crash['instance']} crashed at {local_time(crash.get('at', 0.0))}: {crash_text(crash)}"
        lines += [[(" ", ""), *line] for line in wrap(text, width - 2, "warm")][:1]
    # Few instances leave room for the rest, in a low window too.
    spare = height - len(stage["instances"]) - len(stage["absent"])
    if height < TALL and spare < ROOMY:
        lines.append([(" ", ""), *_shares(stage, glyphs, 20)])
        return lines
    bar_width = min(width // 2 - 4, 60) if width >= WIDE else width - 12
    times = [[("time ", "dim"), *share_bar(stage["budget"], max(bar_width - 5, 8), glyphs)], _shares(stage, glyphs, 0)]
    limit = _limit(stage, shown.config.stages[name], width // 2 - 4 if width >= WIDE else width - 2)
    times += limit
    latency = _latency(shown, name, min(width // 2 - 4, 70) if width >= WIDE else width - 4)
    if width >= WIDE:
        lines += [[(" ", ""), *line] for line in beside(times, latency, width // 2 - 2)]
    else:
        lines += [[(" ", ""), *line] for line in [*times, *(latency[:1] if spare < ROOMY else latency)]]
    return [*lines, []] if spare >= ROOMY else lines


def _figures(stage: dict[str, Any]) -> Line:
    parts: list[Line] = [[instances_words(stage)]]
    for word, rate in (("in", stage["rate_in"]), ("out", stage["rate_out"])):
        if rate is not None:
            parts.append([(f"{word} ", "dim"), (f"{count(rate)}/s", "bold")])
    if stage["rss_bytes"]:
        parts.append([(size(stage["rss_bytes"]), "")])
    if stage["dead_stored"]:
        parts.append([(f"{count(stage['dead_stored'])} dead letters", "bad")])
    return join(parts, "   ")


def _shares(stage: dict[str, Any], glyphs: Any, bar: int) -> Line:
    budget = stage["budget"]
    if not budget:
        return [("how it spends its time is not published", "dim")]
    parts = [share_bar(budget, bar, glyphs)] if bar else []
    for share in SHARES:
        if budget.get(share, 0.0) >= 0.005:
            parts.append([(f"{SHARE_WORDS[share]} ", SHARE_STYLES[share]), (f"{100 * budget[share]:.0f}%", "")])
    return join(parts, "   ")


def _limit(stage: dict[str, Any], config: StageConfig, width: int) -> list[Line]:
    """The limit on calls, and the workers."""
    number = config.workers.count
    plural = {"thread": "threads", "process": "processes"}
    workers = f"{number} {config.workers.kind if number == 1 else plural[config.workers.kind]}"
    parts: list[Line] = [[("workers ", "dim"), (f"{workers} an instance", "")]]
    reports = [one["limit"] for one in stage["instances"] if one.get("limit")]
    if reports:
        under_way = sum(one.get("under_way", 0) for one in reports)
        most = sum(one.get("limit") or 0 for one in reports)
        text = f"{under_way:g} of {most:g} calls at once" if most else f"{under_way:g} calls under way now"
        rate = next((one["rate"] for one in reports if one.get("rate")), None)
        text += f", at most {rate:g}/s an instance" if rate else ""
        reason = next((one["reason"] for one in reports if one.get("reason")), "")
        parts.append([("limit ", "dim"), (text, ""), (f" ({safe(reason)})" if reason else "", "warm")])
    return flow(parts, width)


def _latency(shown: Shown, name: str, width: int) -> list[Line]:
    stage = shown.value["stages"][name]
    parts: list[Line] = []
    for kind, word in (("in_stage", "in the stage"), ("since_origin", "since the source")):
        row = stage["latency"].get(kind) or {}
        if any(row.values()):
            figures = "  ".join(f"{key.removesuffix('_s')} {precise(seconds)}" for key, seconds in row.items())
            parts.append([(f"{word} ", "dim"), (figures, "")])
    if not parts:
        return [[("no latency is known", "dim")]]
    lines = [join(parts, "   ")] if width >= 80 else parts
    histogram = merged_histogram(stage["instances"])
    if histogram:
        lines += histogram_lines(histogram, width, shown.ascii)
    return lines


def merged_histogram(snapshots: Sequence[dict[str, Any]]) -> list[tuple[float, int]]:
    """(upper edge in seconds, messages) of all instances, from the lowest on."""
    found: Counter[float] = Counter()
    for one in snapshots:
        for edge, messages in ((one.get("latency_histogram") or {}).get("in_stage") or {}).get("buckets", ()):
            found[float(edge)] += int(messages)
    return sorted((edge, number) for edge, number in found.items() if number)


def histogram_lines(buckets: Sequence[tuple[float, int]], width: int, ascii_only: bool) -> list[Line]:
    """Two lines: how many messages took how long, since the start, and the ends of the scale."""
    levels = "_.-:=+*#" if ascii_only else "▁▂▃▄▅▆▇█"
    most = max(number for _, number in buckets)
    first, last = buckets[0][0], buckets[-1][0]
    by_edge = dict(buckets)
    edges: list[float] = []
    edge = first
    while edge <= last * 1.001 and len(edges) < 64:
        edges.append(edge)
        edge *= 2
    cell = max(1, min(3, (width - 24) // max(len(edges), 1)))
    bars = ""
    for edge in edges:
        number = next((n for known, n in by_edge.items() if abs(known - edge) <= edge * 0.01), 0)
        bars += (levels[max(1, round(number / most * 7))] if number else levels[0]) * cell
    low = f"{precise(first / 2)} "
    return [
        [
            ("since its start: ", "dim"),
            (low, "dim"),
            (bars[: max(width - 24, 4)], "accent"),
            (f" {precise(last)}", "dim"),
        ]
    ]


def _instances(shown: Shown, name: str, choice: Choice) -> Iterator[tuple[str, list[Cell]]]:
    stage, glyphs = shown.value["stages"][name], shown.glyphs
    sort = SORTS[choice.sort.get(3, 0) % len(SORTS)]
    orders = {
        "rate": lambda one: -(one.get("rate_out") or 0.0),
        "busy": lambda one: -((one.get("budget") or {}).get("working", 0.0)),
        "queued": lambda one: -one["queued"],
        "p99": lambda one: -(((one.get("latency") or {}).get("in_stage") or {}).get("p99_s", 0.0)),
        "dead": lambda one: -(one.get("dead_stored") or 0),
        "memory": lambda one: -(one.get("rss_bytes") or 0),
    }
    for one in sorted(stage["instances"], key=orders.get(sort, lambda one: one["instance"])):
        row = _instance_row(shown, stage, name, one)
        if choice.passes(*(cell[0] for cell in row if isinstance(cell, tuple))):
            yield f"instance:{name}.{one['instance']}", row
    for numbers, word, style in ((stage["absent"], "absent", "bold bad"), (stage["unheard"], "not heard yet", "dim")):
        for number in numbers:
            cells: list[Cell] = [("", "")] * len(COLUMNS)
            cells[:3] = [(f"{name}.{number}", "bold"), dot((word, style), glyphs), (word, style)]
            if choice.passes(name, word):
                yield f"missing:{name}.{number}", cells


def _instance_row(shown: Shown, stage: dict[str, Any], name: str, one: dict[str, Any]) -> list[Cell]:
    glyphs = shown.glyphs
    alone = {**stage, "instances": [one], "state": one["state"], "live": 1, "halted": halt_of_instance(one)}
    full = f"{name}.{one['instance']}"
    alone["budget"] = one.get("budget") or None
    silent = one["instance"] in stage["silent"]
    if silent:
        alone |= {"state": "SILENT", "live": 0, "halted": None}
    state = state_of(alone)
    latency = (one.get("latency") or {}).get("in_stage") or {}
    works = not silent and one["state"] not in ("STOPPED", "FAILED")

    def now(text: str) -> tuple[str, str]:
        return (text if works else "", "")

    restarts = sum((one.get("restarts") or {}).values()) + sum((one.get("worker_restarts") or {}).values())
    ids = (one.get("last_crash") or {}).get("ids") or ()
    return [
        (full, "bold"),
        dot(state, glyphs),
        state,
        now(count(one["rate_in"]) if "rate_in" in one else ""),
        now(count(one["rate_out"]) if "rate_out" in one else ""),
        share_bar(alone["budget"] if works else None, 12, glyphs),
        main_share(alone) if works else ("", ""),
        now(count(one["queued"])),
        now(count(one["in_process"])),
        now(precise(latency["p50_s"]) if latency.get("p50_s") else ""),
        now(precise(latency["p99_s"]) if latency.get("p99_s") else ""),
        (count(one.get("dead_stored") or 0), "bad" if one.get("dead_stored") else "dim"),
        (count(one.get("retries", 0)), "warm" if one.get("retries") else "dim"),
        (count(restarts), "warm" if restarts else "dim"),
        (size(one["rss_bytes"]) if "rss_bytes" in one else "", "dim"),
        (safe(str(one.get("pid", ""))), "dim"),
        (safe(", ".join(ids)) if restarts else "", "dim"),
    ]


def instance_details(one: dict[str, Any]) -> Iterator[str]:
    """All that an instance publishes about itself, in sentences."""
    yield f"incarnation {one['incarnation']}, pid {one.get('pid', '?')}"
    yield ", ".join(f"{key.replace('_', ' ')} {one[key]:,}" for key in COUNTS)
    others = ", ".join(f"{key} {one[key]:,}" for key in OTHERS if key in one)
    if others:
        yield others
    for what, key in (("started again after crashes", "restarts"), ("worker processes that died", "worker_restarts")):
        if found := one.get(key):
            yield f"{what}: " + ", ".join(f"{times:,} {reason}" for reason, times in found.items())
    if crash := one.get("last_crash"):
        yield f"the last at {local_time(crash.get('at', 0.0))}: {crash_text(crash)}"
    if one.get("dead_stored"):
        yield f"dead letters stored {one['dead_stored']:,} ({size(one.get('dead_stored_bytes', 0))})"
    yield from plugin_words(one)
    if one.get("waiting_for") and one["state"] != "RUNNING":
        yield f"waits for {', '.join(one['waiting_for'])}"
    for row in one["links"]:
        outlet = f" by {row['outlet']}" if row.get("outlet") else ""
        yield (
            f"to {row.get('to')}{outlet}: produced {row['produced']:,} = acked {row['acked']:,}"
            f" + in flight {row['in_flight']:,} + unsent {row['unsent']:,}; redelivered {row.get('redelivered', 0):,}"
        )


def _metrics_lines(stage: dict[str, Any], width: int) -> list[Line]:
    """What its plugin counts and measures."""
    speaking = [one for one in stage["instances"] if one["instance"] not in stage["silent"]]
    figures = plugin_figures(stage["instances"], speaking)
    if not figures:
        return []
    return [[], [(" metrics of its plugin", "title")], *([(" ", ""), *line] for line in flow(figures, width - 2))]


def _config_lines(config: StageConfig, width: int) -> list[Line]:
    """What the config says of the stage."""
    lines: list[Line] = [[(" options", "title")]]
    parts = [
        f"{'plugin' if config.plugin else 'command'} {config.runs}",
        f"queue {config.queue.messages:,} messages",
        f"unacked {config.unacked.messages:,}",
        *([f"disk buffer {size(config.buffer.bytes)}"] if config.buffer else []),
    ]
    parts.append(f"retry {config.retry.attempts} attempts")
    if config.batch:
        parts.append(f"batch {config.batch.messages}")
    lines += [[(" ", ""), *line] for line in wrap(", ".join(parts), width - 2)]
    if config.options is not None:
        fields = config.options if isinstance(config.options, dict) else vars(config.options)
        shown = ", ".join(f"{key} = {_value(value)}" for key, value in fields.items())
        lines += [[(" ", ""), *line] for line in wrap(shown, width - 2, "dim")]
    return lines


def _value(value: Any) -> str:
    try:
        text = json.dumps(to_json(value))
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def summary(shown: Shown, name: str, width: int) -> list[Line]:
    """The stage in a column: for beside the graph."""
    stage, glyphs = shown.value["stages"][name], shown.glyphs
    state = state_of(stage)
    memory = f"   {size(stage['rss_bytes'])}" if stage["rss_bytes"] else ""
    lines: list[Line] = [
        [(cut(name, width), "bold title")],
        [dot(state, glyphs), (" ", ""), state, ("   ", ""), instances_words(stage), (memory, "dim")],
        [],
    ]
    for found in (stage["stopped_by"], stage["held_by"]):
        for who, why in list(found.items())[:2]:
            lines += wrap(f"{who}: {why}", width, "bad")
    lines += [[("out   ", "dim"), *spark(shown.history.rates(name), width - 6, glyphs)]]
    lines += [[("time  ", "dim"), *share_bar(stage["budget"], width - 6, glyphs)]]
    budget = stage["budget"] or {}
    for share in SHARES:
        if budget.get(share, 0.0) >= 0.005:
            lines.append(
                [
                    ("      ", ""),
                    (f"{SHARE_WORDS[share]:<9}", SHARE_STYLES[share]),
                    (f"{100 * budget[share]:3.0f}%", ""),
                ]
            )
    lines.append([])
    for kind, word in (("in_stage", "in the stage"), ("since_origin", "since the source")):
        row = stage["latency"].get(kind) or {}
        if any(row.values()):
            lines.append([(word, "dim")])
            lines.append(
                [("      ", ""), ("   ".join(f"{k.removesuffix('_s')} {precise(s)}" for k, s in row.items()), "")]
            )
    for link in shown.value["links"]:
        if name in (link["from"], link["to"]):
            of = f" of {count(link['bound'])}" if link["bound"] else ""
            lines += [[], [(cut(link_words(link, glyphs), width), "")]]
            lines.append(
                [("      ", ""), *fill_bar(link, 12, glyphs), (f" {count(link['depth'])}{of}", depth_style(link))]
            )
            age = f"oldest {duration(link['oldest_s'])}" if link["oldest_s"] else ""
            soon = (
                f"full in {duration(link['full_in_s'])}"
                if link["full_in_s"]
                else "full now"
                if link["full_in_s"] == 0.0
                else ""
            )
            if age or soon:
                lines.append([("      ", ""), (", ".join(filter(None, (age, soon))), "dim")])
            lines.append([("      ", ""), *depth_spark(shown, link, width - 6)])
    return lines
