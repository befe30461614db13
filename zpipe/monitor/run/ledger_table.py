"""How the ledger of a run looks: tables of rich, drawn once at its end. Must not live here: what balances, and why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.table import Table
from rich.text import Text

from zpipe.monitor import formatting
from zpipe.monitor.model.run_ledger import RARE

ALWAYS = ("received", "completed", "produced")
"""Columns of the ledger that are shown also when they are all 0."""
HELD_COLUMNS = ("in_flight", "unsent", "stored")
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
    "unrouted": "un-\nrouted",
    "unknown": "un-\nknown",
}
SHORTEST_NAME = 4


def link_table(ledger: dict[str, Any]) -> Table:
    """The links of a ledger, a row each: sent = acked + dead + returned once nothing is in flight."""
    keys = ["sent", "acked", "dead", "returned", "in_flight", "unsent"]
    keys += [key for key in ("stored", "unknown") if any(link.get(key) for link in ledger["links"])]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("link", no_wrap=True)
    for key in keys:
        table.add_column(key.replace("_", " "), justify="right", no_wrap=True)
    for link in ledger["links"]:
        outlet = f".{link['outlet']}" if link.get("outlet") else ""
        table.add_row(f"{link['from']}{outlet} -> {link['to']}", *[str(link.get(key, 0)) for key in keys])
    return table


def ledger_table(ledger: dict[str, Any]) -> Table:
    """The ledger of `RunLedger.as_json`: a row a stage, 80 columns wide. Columns in which there is nothing are left out."""
    rows: dict[str, dict[str, int]] = {name: dict(row) for name, row in ledger["stages"].items()}
    for name, row in rows.items():
        links = [link for link in ledger["links"] if link["from"] == name]
        row |= {key: sum(link.get(key, 0) for link in links) for key in HELD_COLUMNS}
        row |= {key: row.get(key, 0) for key in (*RARE, "unknown")}
    keys = [key for key in next(iter(rows.values()), {}) if key in ALWAYS or any(row[key] for row in rows.values())]
    heads = {key: key.replace("_", "\n") for key in keys}
    # The numbers are exact while there is room, since a ledger is there to be added up.
    number: Callable[[int], str] = str
    gap = 2
    names = max(map(len, ["stage", *rows]))
    if names + _room(heads, rows, keys, number, gap) > LEDGER_WIDTH:
        # The problems below the table, or `dead replay`, say the same.
        keys = [key for key in keys if key not in (*HELD_COLUMNS, "replayed")]
        heads = {key: _SHORT_HEADS.get(key, key) for key in keys}
        gap = 1
        if names + _room(heads, rows, keys, number, gap) > LEDGER_WIDTH:
            number = formatting.count
            names = max(SHORTEST_NAME, LEDGER_WIDTH - _room(heads, rows, keys, number, gap))
    verdict = "balances" if ledger["balanced"] else "does not balance"
    title = f"{ledger['pipeline']}: the ledger {verdict} after {ledger['seconds']:.1f} s"
    problems = [formatting.visible(one) for one in ledger.get("problems", ())]
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
    # rich breaks title and caption at the width of the table, so a narrow table is made wide enough for them.
    wide = min(LEDGER_WIDTH, max(map(len, [title, *problems])))
    spare = wide - names - _room(heads, rows, keys, number, gap)
    if spare > 0:
        table.add_column("", min_width=spare)
    for name, row in rows.items():
        table.add_row(formatting.cut(name, names), *[number(row[key]) for key in keys])
    return table


def _room(
    heads: dict[str, str], rows: dict[str, dict[str, int]], keys: list[str], number: Callable[[int], str], gap: int
) -> int:
    """What all columns of numbers take."""
    return sum(
        max(map(len, [*heads[key].split("\n"), *[number(row[key]) for row in rows.values()]])) + gap for key in keys
    )
