"""The keys of the screen, what they are called, and where its widgets stand. Must not live here: what a key does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from textual.binding import Binding, BindingsMap, BindingType

PAGE = 10
"""Rows that page up and page down move."""
HELP = """\
1 to 6           the views: pipeline, table, stage, links, dead letters, events
arrows, h j k l  choose a stage, a link, a letter; page up and down, home and end go further
enter            deeper: a stage, an instance, a link, a letter;  escape: back
/                filter what the view lists by words;  escape: all of it again
s                sort by the next column (or click its head)
v                in the pipeline: boxes or a list;  in the table: the legend
[ ]              the stage before, the next one
t                tap: the messages that pass the chosen link, as they pass
p, r             pause the chosen stage, resume it (asks first)
d                drain the whole pipeline (asks first)
L                have the chosen instance leave (asks first)
In dead letters
enter            unfold a reason; show a letter;  e: edit it in $EDITOR
r, x             replay, drop the chosen letter or all of the chosen reason (asks first)
In a recording
left, right      one interval back, on;  page up, page down: ten;  home, end
space, + and -   play or stop; faster and slower. The time line can be dragged
ctrl+p           all commands by name, and the themes
q                leave; the pipeline goes on"""
CSS = """
Screen { layout: vertical; }
#header { height: 1; background: $panel; overflow: hidden; }
#tabs { height: 1; overflow: hidden; }
#sentence { height: 1; overflow: hidden; }
#body { height: 1fr; }
#upper { height: 1fr; }
#side { width: 0; overflow: hidden; }
#below { height: 0; overflow: hidden; }
#filter { height: 1; border: none; padding: 0 1; display: none; }
#time { display: none; }
Canvas { scrollbar-size-vertical: 1; scrollbar-size-horizontal: 1; }
.ascii Canvas { scrollbar-size: 0 0; }
.-narrow FooterKey.-command-palette { display: none; }
"""
BREAKPOINTS: list[tuple[int, str]] = [(0, "-narrow"), (90, "-wide")]
"""Classes of the screen by its width. On a narrow one the footer has no room for the palette: the help names its key."""
OF_AN_OPERATOR = ("tap", "pause", "resume", "replay_letters", "drop_letters", "edit_letter", "drain", "leave")
"""Actions that ask something of a pipeline, which a recording cannot be asked."""
BINDINGS: list[BindingType] = [
    *(Binding(str(number), f"view({number})", show=False) for number in range(1, 7)),
    Binding("enter", "open", "open"),
    Binding("question_mark", "help", "help"),
    Binding("q", "quit", "quit"),
    Binding("escape", "up", "back", show=False),
    Binding("slash", "filter", "filter"),
    Binding("s", "sort", "sort"),
    Binding("v", "boxes", "list"),
    Binding("v", "legend", "legend"),
    Binding("left_square_bracket", "other_stage(-1)", "stage", show=False),
    Binding("right_square_bracket", "other_stage(1)", "stage", show=False),
    Binding("t", "tap", "tap"),
    Binding("p", "pause", "pause"),
    Binding("r", "resume", "resume"),
    Binding("r", "replay_letters", "replay"),
    Binding("x", "drop_letters", "drop"),
    Binding("e", "edit_letter", "edit"),
    Binding("d", "drain", "drain"),
    Binding("L", "leave", "leave", show=False),
    Binding("space", "play", "play/stop"),
    Binding("left", "step(-1)", "step", show=False),
    Binding("right", "step(1)", "step", show=False),
    Binding("pageup", "step(-10)", show=False),
    Binding("pagedown", "step(10)", show=False),
    Binding("home", "seek(0)", show=False),
    Binding("end", "seek(1)", show=False),
    Binding("plus,equals_sign", "faster(1)", show=False),
    Binding("minus", "faster(-1)", show=False),
    Binding("up,k", "move(0, -1)", show=False),
    Binding("down,j", "move(0, 1)", show=False),
    Binding("left,h", "move(-1, 0)", show=False),
    Binding("right,l", "move(1, 0)", show=False),
    Binding("pageup", f"move(0, -{PAGE})", show=False),
    Binding("pagedown", f"move(0, {PAGE})", show=False),
    Binding("home", "move(0, -100000)", show=False),
    Binding("end", "move(0, 100000)", show=False),
    Binding("ctrl+c", "quit", show=False, priority=True),
    Binding("ctrl+z", "suspend_process", show=False),
]
"""Where a key has two of them, the one that `check_action` allows in the view is meant."""


def hide(bindings: BindingsMap, actions: Sequence[str]) -> None:
    """Has the footer not offer these actions. Their keys are still heard, so that the screen can say why nothing is done."""
    for key, found in bindings.key_to_bindings.items():
        bindings.key_to_bindings[key] = [replace(one, show=one.show and one.action not in actions) for one in found]
