"""The table of figures, as text and as Markdown. Does not belong here: what a figure is."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import Figure, Spread

HEADS = ("", "what", "unit", "zpipe", "reference", "its figure", "ratio", "goal", "")
RIGHT = {3, 5, 6}
"""The columns of numbers."""


def as_text(figures: Sequence[Figure]) -> str:
    rows = [HEADS, *map(_cells, figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(_pad(row, widths)).rstrip() for row in rows)


def as_markdown(figures: Sequence[Figure]) -> str:
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "|".join("--:" if n in RIGHT else "---" for n in range(9)) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(figure)) + " |" for figure in figures]
    return "\n".join(lines)


def verdict(figure: Figure) -> str:
    if figure.met is not None:
        return "met" if figure.met else "NOT MET"
    return figure.missing and f"not measured: {figure.missing}"


def _pad(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.rjust(width) if n in RIGHT else cell.ljust(width)
        for n, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _cells(figure: Figure) -> tuple[str, ...]:
    numbers = (_number(figure.zpipe), figure.reference_name, _number(figure.reference), _number(figure.ratio))
    goal = "" if figure.goal is None else str(figure.goal)
    return (figure.name, figure.what, figure.unit, *numbers, goal, verdict(figure))


def _number(spread: Spread | None) -> str:
    """The median, with the least and the greatest where there was more than one round."""
    if spread is None:
        return "-"
    if spread.low == spread.high:
        return _digits(spread.median)
    return f"{_digits(spread.median)} ({_digits(spread.low)}-{_digits(spread.high)})"


def _digits(value: float) -> str:
    """Three significant digits; whole numbers from a hundred on."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"
