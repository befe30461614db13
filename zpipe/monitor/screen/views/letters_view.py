"""View 5: the stored dead letters, folded by reason. Pure: reading and changing them is `letter_store`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zpipe.monitor.formatting import clock, count
from zpipe.monitor.screen.pane import Cell, Choice, Pane, Shown, View, safe, table
from zpipe.monitor.table.columns import LEFT, Column

REASONS = (
    Column("letters"),
    Column("stage", LEFT, rank=0.5),
    Column("first", LEFT, rank=2),
    Column("last", LEFT, rank=1),
    Column("reason", LEFT),
)
LETTERS = (
    Column("letter", LEFT),
    Column("message", LEFT, rank=0.8),
    Column("when", LEFT, rank=1),
    Column("tries", rank=2),
    Column("", LEFT, rank=0.5, sparse=True),
)
SORTS = ("newest", "most", "reason")


def folded(rows: Sequence[dict[str, Any]], sort: str = "newest") -> list[tuple[str, str, list[dict[str, Any]]]]:
    """(stage, reason, its letters with the newest first)."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["stage"], safe(row["reason"]) or "no reason"), []).append(row)
    groups = [(stage, reason, sorted(of, key=lambda row: -row["at"])) for (stage, reason), of in found.items()]
    orders = {"most": lambda group: -len(group[2]), "reason": lambda group: group[1]}
    return sorted(groups, key=orders.get(sort, lambda group: -group[2][0]["at"]))


def reason_key(stage: str, reason: str) -> str:
    return f"reason:{stage}:{reason}"


def letters_of(shown: Shown, key: str) -> list[dict[str, Any]]:
    """The letters that a row stands for: one, or all of a reason."""
    if key.startswith("letter:"):
        return [row for row in shown.letters.rows if f"letter:{row['letter']}" == key]
    return next((of for stage, reason, of in folded(shown.letters.rows) if reason_key(stage, reason) == key), [])


def _tries(row: dict[str, Any]) -> str:
    """In words, since the letters of a reason have no head."""
    tries = f"{row['attempts']} {'try' if row['attempts'] == 1 else 'tries'}"
    return f"{tries}, {row['deaths']} {'death' if row['deaths'] == 1 else 'deaths'}" if row["deaths"] else tries


def view(shown: Shown, choice: Choice, width: int, height: int) -> View:
    pane = Pane()
    if shown.letters.problem:
        pane.add([(f" {shown.letters.problem}", "warm")])
        return View(pane)
    rows = [row for row in shown.letters.rows if choice.passes(row["letter"], row["id"], row["reason"])]
    groups = folded(rows, SORTS[choice.sort.get(5, 0) % len(SORTS)])
    if not groups:
        nothing = (
            "no dead letter that the filter lets through"
            if choice.filter()
            else "no dead letters are stored on this machine"
        )
        pane.add([(f" {nothing}", "dim")])
        return View(pane)
    mark, opened = ("+", "-") if shown.ascii else ("▸", "▾")
    cells: list[list[Cell]] = []
    for stage, reason, of in groups:
        first, last = clock(min(row["at"] for row in of)), clock(of[0]["at"])
        cells.append([(count(len(of)), "bold bad"), (stage, "bold"), (first, "dim"), (last, ""), (reason, "")])
    head, lines = table(REASONS, cells, 10_000, shown.glyphs)
    pane.head = [[("   ", ""), *head]]
    for (stage, reason, of), line in zip(groups, lines, strict=True):
        key = reason_key(stage, reason)
        is_open = key in choice.unfolded
        pane.add([(f" {opened if is_open else mark} ", "accent"), *line], key)
        if is_open:
            of_letters: list[list[Cell]] = [
                [
                    (row["letter"], ""),
                    (safe(row["id"]), "dim"),
                    (clock(row["at"]), ""),
                    (_tries(row), ""),
                    ("to be replayed" if row["replaying"] else "", "warm"),
                ]
                for row in of
            ]
            _, inner = table(LETTERS, of_letters, width - 8, shown.glyphs)
            for row, inner_line in zip(of, inner, strict=True):
                pane.add([("      ", ""), *inner_line], f"letter:{row['letter']}")
    if shown.letters.stored > len(shown.letters.rows):
        pane.lines.append(
            [(f" {shown.letters.stored - len(shown.letters.rows):,} more are stored: zpipe dead list", "dim")]
        )
    pane.mark(choice.row.get(5, ""), width)
    return View(pane)
