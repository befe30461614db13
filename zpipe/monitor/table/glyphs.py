"""Small pictures made of characters, for terminals with Unicode and without. Must not live here: which figures are drawn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, TextIO


class Glyphs(NamedTuple):
    """`eighths`: parts of a full cell, from the least on; `levels`: heights of a sparkline."""

    full: str
    eighths: str
    empty: str
    up: str
    down: str
    flat: str
    levels: str
    ellipsis: str


UNICODE = Glyphs("█", "▏▎▍▌▋▊▉", "·", "↑", "↓", " ", "▁▂▃▄▅▆▇█", "…")
ASCII = Glyphs("#", "", ".", "^", "v", " ", "_.-:=+*#", "~")


def glyphs_of(stream: TextIO) -> Glyphs:
    """Those that the stream can show."""
    # Python makes UTF-8 of the C locale, whose terminals are not known to have it.
    locale = next((one for key in ("LC_ALL", "LANG") if (one := os.environ.get(key))), "")
    if locale in ("C", "POSIX"):
        return ASCII
    encoding = (getattr(stream, "encoding", "") or "").lower().replace("-", "")
    return UNICODE if encoding.startswith("utf") else ASCII


def bar(part: float, width: int, glyphs: Glyphs) -> str:
    """`part` (0 to 1) of `width` cells. A part above 0 never looks empty, and one below 1 never looks full."""
    part = min(max(part, 0.0), 1.0)
    steps = len(glyphs.eighths) + 1
    units = round(part * width * steps)
    if 0.0 < part < 1.0:
        units = min(max(units, 1), width * steps - 1)
    whole, rest = divmod(units, steps)
    text = glyphs.full * whole + (glyphs.eighths[rest - 1] if rest else "")
    return text + glyphs.empty * (width - len(text))


def trend_arrow(slope: float | None, glyphs: Glyphs) -> str:
    """Whether a depth grows or falls; flat if unknown."""
    return glyphs.flat if not slope else glyphs.up if slope > 0 else glyphs.down


def sparkline(numbers: Sequence[float], width: int, glyphs: Glyphs) -> str:
    """The last `width` numbers, from 0 to the largest of them; right-aligned."""
    shown = numbers[-width:] if width > 0 else []
    most = max(shown, default=0.0)
    if most <= 0.0:
        return (glyphs.levels[0] * len(shown)).rjust(max(width, 0))
    top = len(glyphs.levels) - 1
    return "".join(glyphs.levels[round(number / most * top)] for number in shown).rjust(width)
