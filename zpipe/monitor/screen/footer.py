"""The last lines of the screen: the keys, a question, or what the last key led to. Must not live here: what the keys do."""

from __future__ import annotations

from collections.abc import Sequence

from zpipe.monitor.screen.controls import Controls
from zpipe.monitor.table.columns import HANGS, Line, clip, wrap

KEYS = ("j/k choose", "enter details", "s sort", "p pause", "r resume", "d drain", "h help", "q quit")
REPLAY_KEYS = ("left/right step", "space play", "+/- speed", "enter details", "s sort", "h help", "q quit")
NO_KEYS = "Ctrl-C quits; no keys, since stdin is no terminal"
BETWEEN = "  "
QUESTIONS = (
    "Drain the whole pipeline? It stops when everything held is finished. y: yes, any other key: no",
    "Drain the whole pipeline? y: yes, other keys: no",
    "Drain all? y/n",
)
"""Forms of the question, the longest first. The first one for which the window has room is shown."""


def footer(controls: Controls, width: int, height: int) -> list[Line]:
    """At most `height` lines of at most `width` characters."""
    if controls.mode == "confirm":
        for question in QUESTIONS:
            lines = wrap(question, width, "reverse", indent="")
            if len(lines) <= height - 2:
                return lines
        return lines[:height]
    if controls.message:
        lines = wrap(controls.message, width, "reverse", indent="" if width < 2 * HANGS else "  ")
        return lines[: max(height - 2, 1)]
    if not controls.keys:
        return [clip([(NO_KEYS, "dim")], width)][:height]
    return [clip([(keys(REPLAY_KEYS if controls.replay else KEYS, width), "dim")], width)][:height]


def keys(words: Sequence[str], width: int) -> str:
    """All in one line: where there is no room for what they do, the keys alone. The last two are help and quit."""
    *others, helps, leaves = words
    bare = " ".join(word.split()[0] for word in others)
    forms = (BETWEEN.join(words), BETWEEN.join([bare, helps, leaves]), BETWEEN.join([helps, leaves]), leaves)
    return next((form for form in forms if len(form) <= width), leaves)
