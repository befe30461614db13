"""How the monitor's values look in a terminal.

May live here: functions from data to rich renderables, and numbers as text.

The status screen is laid out by hand, not by rich's Table: it is drawn every interval, 20 stages have to fit into
80x40, and a Table of that size takes nine times as long to lay out (13 ms).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

STATE_STYLES = {
    "RUNNING": "green",
    "STARTING": "yellow",
    "DRAINING": "yellow",
    "FLUSHED": "yellow",
    "STOPPED": "dim",
    "SILENT": "bold red",
    "ABSENT": "bold red",
    "FAILED": "bold red",
}
ALWAYS = ("received", "completed", "produced")
"""Columns of the ledger that are shown also when they are all 0."""
LINK_COLUMNS = ("in_flight", "unsent")
LEDGER_WIDTH = 80
_SHORT_HEADS = {
    "received": "re-\nceived",
    "completed": "com-\npleted",
    "filtered": "fil-\ntered",
    "returned": "re-\nturned",
    "in_process": "in pro-\ncess",
    "produced": "pro-\nduced",
    "redelivered": "redeli-\nvered",
    "duplicates": "dupli-\ncates",
    "restarts": "re-\nstarts",
}
SHORTEST_NAME = 4
_NAMES = ("STAGE", "FROM")
_OPTIONAL = ("DEAD", "WILL BE")


# Numbers


def count(number: float) -> str:
    """At most five characters: 0, 7.5, 950, 12.3k, 4.1M."""
    if number < 10 and number != int(number):
        return f"{number:.1f}"
    for unit in ("", "k", "M", "G"):
        if abs(number) < 999.5:
            return f"{number:.1f}{unit}" if unit and abs(number) < 99.95 else f"{number:.0f}{unit}"
        number /= 1000
    return f"{number:.0f}T"


def rate(number: float | None) -> str:
    return "" if number is None else f"{count(number)}/s"


def size(number: float) -> str:
    """4.1 MiB, 31 MiB, 1.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def duration(seconds: float) -> str:
    """0.5s, 12s, 3m, 2h, 4d."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    for unit, length in (("s", 60.0), ("m", 60.0), ("h", 24.0)):
        if seconds < length * 1.5:
            return f"{seconds:.0f}{unit}"
        seconds /= length
    return f"{seconds:.0f}d"


def share(part: float) -> str:
    return f"{100 * part:.0f}%"


# The ledger


def link_table(ledger: dict[str, Any]) -> Table:
    """The links of a ledger, a row each: sent = acked + dead + returned once nothing is in flight."""
    keys = ("sent", "acked", "dead", "returned", "in_flight", "unsent")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("link", no_wrap=True)
    for key in keys:
        table.add_column(key.replace("_", " "), justify="right", no_wrap=True)
    for link in ledger["links"]:
        outlet = f".{link['outlet']}" if link.get("outlet") else ""
        table.add_row(f"{link['from']}{outlet} -> {link['to']}", *[str(link.get(key, 0)) for key in keys])
    return table


def ledger_table(ledger: dict[str, Any]) -> Table:
    """The ledger of `Ledger.as_json`: a row a stage, 80 columns wide. Columns in which there is nothing are left out."""
    rows: dict[str, dict[str, int]] = {name: dict(row) for name, row in ledger["stages"].items()}
    for name, row in rows.items():
        links = [link for link in ledger["links"] if link["from"] == name]
        row |= {key: sum(link[key] for link in links) for key in LINK_COLUMNS}
        row.setdefault("replayed", 0)
    keys = [key for key in next(iter(rows.values()), {}) if key in ALWAYS or any(row[key] for row in rows.values())]
    heads = {key: key.replace("_", "\n") for key in keys}
    # Exact while there is room: a ledger is there to be added up.
    number: Callable[[int], str] = str
    gap = 2
    names = max(map(len, ["stage", *rows]))
    if names + _room(heads, rows, keys, number, gap) > LEDGER_WIDTH:
        keys = [key for key in keys if key not in (*LINK_COLUMNS, "replayed")]  # said below, or by who replayed them
        heads = {key: _SHORT_HEADS.get(key, key) for key in keys}
        gap = 1
        if names + _room(heads, rows, keys, number, gap) > LEDGER_WIDTH:
            number = count
            names = max(SHORTEST_NAME, LEDGER_WIDTH - _room(heads, rows, keys, number, gap))
    verdict = "balances" if ledger["balanced"] else "does not balance"
    title = f"{ledger['pipeline']}: the ledger {verdict} after {ledger['seconds']:.1f} s"
    problems = ledger.get("problems", ())
    table = Table(
        title=Text(title, "bold green" if ledger["balanced"] else "bold red"),
        caption=Text("\n".join(problems), "red") or None,
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, gap, 0, 0),
        pad_edge=False,
    )
    table.add_column("stage", no_wrap=True, vertical="bottom")
    for key in keys:
        table.add_column(heads[key], justify="right", vertical="bottom", no_wrap=True)
    # rich breaks title and caption at the table's width, so a narrow one is made wide enough for them.
    wide = min(LEDGER_WIDTH, max(map(len, [title, *problems])))
    spare = wide - names - _room(heads, rows, keys, number, gap)
    if spare > 0:
        table.add_column("", min_width=spare)
    for name, row in rows.items():
        table.add_row(_cut(name, names), *[number(row[key]) for key in keys])
    return table


def _room(
    heads: dict[str, str], rows: dict[str, dict[str, int]], keys: list[str], number: Callable[[int], str], gap: int
) -> int:
    """What all columns of numbers take."""
    return sum(
        max(map(len, [*heads[key].split("\n"), *[number(row[key]) for row in rows.values()]])) + gap for key in keys
    )


# The status


def status_table(model: dict[str, Any]) -> RenderableType:
    """The status of `Model.as_json`: a line a stage with the link into it, a further line for each further link."""
    return _Status(model)


class _Status:
    """As wide as it has to be: the names of stages are cut where the terminal is too narrow."""

    HEADER = ("STAGE", "STATE", "OUT/s", "WORK", "BLKD", "DEAD", "RSS", "FROM", "IN/s", "DEPTH", "WILL BE")
    LEFT = ("STAGE", "STATE", "FROM", "WILL BE")

    def __init__(self, model: dict[str, Any]) -> None:
        self.model = model

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        model = self.model
        rows, styles = [list(self.HEADER)], ["bold"]
        slow = model["bottleneck"]["stage"] if model["bottleneck"] else None
        for name, stage in model["stages"].items():
            links = [_link_cells(link) for link in model["links"] if link["to"] == name] or [[""] * 4]
            rows += [_stage_cells(name, stage) + links[0], *[[""] * 7 + more for more in links[1:]]]
            styles += ["bold" if name == slow else "", *[""] * (len(links) - 1)]
        widths, gap = _fit(rows, self.HEADER, options.max_width)
        lines = [self._line(row, widths, " " * gap, style) for row, style in zip(rows, styles, strict=True)]
        text = Text("\n", no_wrap=True, overflow="crop").join([Text(_title(model), "bold"), *lines])
        yield text
        yield from _remarks(model)

    def _line(self, row: Sequence[str], widths: Sequence[int], gap: str, style: str) -> Text:
        text = Text(style=style)
        for cell, width, head in zip(row, widths, self.HEADER, strict=True):
            if width:
                padded = _cut(cell, width).ljust(width) if head in self.LEFT else cell.rjust(width)
                text.append(padded + gap, STATE_STYLES.get(cell, "") if head == "STATE" else "")
        text.rstrip()
        return text


def _title(model: dict[str, Any]) -> str:
    parts = [model["pipeline"]]
    for name, stage in model["stages"].items():
        progress = stage.get("progress")
        if progress and progress["total"]:
            done, total = progress["finished"], progress["total"]
            parts.append(f"{name} {share(done / total)} ({count(done)} of {count(total)} finished)")
    return "  ".join(parts)


def _stage_cells(name: str, stage: dict[str, Any]) -> list[str]:
    number = len(stage["instances"])
    if not number:
        return [name, stage["state"], "", "", "", "", ""]
    budget = stage["budget"]
    return [
        f"{name} x{number}" if number > 1 else name,
        stage["state"],
        count(stage["rate_out"]),
        share(budget["working"]),
        share(budget["blocked"]),
        count(stage["dead"]),
        size(stage["rss_bytes"]),
    ]


def _link_cells(link: dict[str, Any]) -> list[str]:
    will_be = ""
    if link["full_in_s"] is not None:
        will_be = f"full {duration(link['full_in_s'])}" if link["full_in_s"] else "full now"
    elif link["empty_in_s"]:
        will_be = f"empty {duration(link['empty_in_s'])}"
    name = f"{link['from']}.{link['outlet']}" if link["outlet"] else link["from"]
    return [name, "" if link["rate"] is None else count(link["rate"]), count(link["depth"]), will_be]


def _fit(rows: list[list[str]], header: Sequence[str], room: int) -> tuple[list[int], int]:
    """The columns' widths (0: left out) and the gap between them.

    Where there is too little room for all, columns in which nothing stands go first; then names are cut, the longest first.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    gap = 2 if sum(widths) + 2 * len(widths) - 2 <= room else 1
    for at, column in enumerate(zip(*rows[1:], strict=True)):
        if (
            _over(widths, gap, room) > 0
            and header[at] in _OPTIONAL
            and not any(cell not in ("", "0") for cell in column)
        ):
            widths[at] = 0
    names = [at for at, head in enumerate(header) if head in _NAMES]
    while _over(widths, gap, room) > 0 and any(widths[at] > SHORTEST_NAME for at in names):
        widths[max(names, key=lambda at: widths[at])] -= 1
    return widths, gap


def _over(widths: list[int], gap: int, room: int) -> int:
    shown = [width for width in widths if width]
    return sum(shown) + gap * (len(shown) - 1) - room


def _cut(name: str, width: int) -> str:
    """Names of stages differ at their ends as often as at their beginnings, so the middle goes."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def _remarks(model: dict[str, Any]) -> Iterator[Text]:
    for name, stage in model["stages"].items():
        missing = [f"{name}.{instance}" for instance in stage["absent"]] if stage["instances"] else []
        silent = [f"{name}.{instance}" for instance in stage["silent"]]
        if missing:
            yield Text(f"{', '.join(missing)}: not heard of", "red")
        if silent:
            yield Text(f"{', '.join(silent)}: silent", "red")
        for instance, why in stage.get("stopped_by", {}).items():
            yield Text(f"{instance} takes no more: {why}", "bold red")
    bottleneck = model["bottleneck"]
    if bottleneck:
        needed = bottleneck["instances_needed"]
        advice = f" {needed} instances would keep up." if needed else ""
        yield Text(f"Bottleneck: {bottleneck['why']}.{advice}", "bold yellow")
