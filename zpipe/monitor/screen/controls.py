"""What the keys of the screen do: the state as the user has set it, and how a key changes it. Must not live here: drawing.

A key is a character, or a word for one that has none: up, down, left, right, enter, escape, home, end, pageup, pagedown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zpipe.monitor.table.rows import ORDERS

PAGE = 10
"""Lines that page up and page down move what is longer than the window."""
MOVES = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -PAGE, "pagedown": PAGE}
SPEEDS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
LOOKING = (
    ("up, down, j, k", "choose a stage; move what is longer than the window, as page up and page down do"),
    ("enter", "details of the stage and its instances; escape: back"),
    ("s", "sort by the next of: " + ", ".join(ORDERS)),
)
OPERATING = (
    ("p", "pause the stage: it starts no work, its queue fills and pushes back"),
    ("r", "have it go on"),
    ("d", "drain the whole pipeline (asks first)"),
)
REPLAYING = (
    ("left, right", "one interval back, on; page up, page down: ten"),
    ("home, end", "the beginning, the end"),
    ("space", "play, or stop"),
    ("+, -", "faster, slower"),
)
MEANINGS = (
    ("*", "what holds the pipeline up: the sentence below the table says why"),
    ("WORK, WAIT, BLKD", "shares of time: at work, without input, blocked by what follows"),
    (
        "LIM, RTRY, CALLS",
        "shares of time held by `limit`, and waiting to try again; calls at once that `limit` allows now",
    ),
    ("ERR", "calls that were tried again, and frames that broke the protocol"),
    ("P50, P99", "time in the stage"),
    ("DEPTH", "messages that wait on a link: UNSENT, ON WAY, and QUEUED (of which BATCH in one that is not full)"),
    ("WILL BE", "full or empty, if it goes on so; stale: for how long an end was not heard"),
    ("UNACKED, REST", "not finished at the receiver; what the two ends do not agree on, 0 at rest"),
)
LEAVING = (("h, ?", "this; any other key: back"), ("q", "leave; the pipeline goes on"))


class Command(NamedTuple):
    """What the screen cannot do itself: pause, resume (of a stage), drain, step (of `amount` intervals), seek (0 or 1)."""

    what: str
    stage: str = ""
    amount: float = 0.0


@dataclass
class Controls:
    """mode: status, details, help or confirm. `message` is the answer to the last key.

    scroll   lines of the help or of details that are above the window
    keys     whether there is a keyboard
    replay   a recording is shown: nothing can be asked of it, and its time can be moved
    """

    replay: bool = False
    keys: bool = True
    mode: str = "status"
    order: str = "config"
    selected: str | None = None
    message: str = ""
    scroll: int = 0
    playing: bool = True
    speed: float = 1.0
    over: bool = False

    def press(self, key: str, stages: Sequence[str]) -> Command | None:
        """`stages`: the names in the order in which they are shown."""
        self.message = ""
        if self.mode == "confirm":
            self.mode = "status"
            if key in ("y", "Y"):
                return Command("drain")
            self.message = "nothing is drained"
            return None
        if self.mode == "help":
            if key in MOVES:
                self.scroll = max(0, self.scroll + MOVES[key])
            else:
                self.mode = "status"
            return None
        if key in ("q", "Q"):
            self.over = True
            return None
        self._move(key, stages)
        return self._replay(key) if self.replay else self._operate(key)

    def _move(self, key: str, stages: Sequence[str]) -> None:
        if key in MOVES and self.mode == "details" and not (self.replay and abs(MOVES[key]) == PAGE):
            self.scroll = max(0, self.scroll + MOVES[key])
        elif key in MOVES and abs(MOVES[key]) == 1:
            if stages:
                at = stages.index(self.selected) + MOVES[key] if self.selected in stages else 0
                self.selected = stages[min(max(at, 0), len(stages) - 1)]
        elif key == "enter" and stages:
            self.selected = self.selected if self.selected in stages else stages[0]
            self.mode, self.scroll = "details", 0
        elif key == "escape":
            self.mode = "status"
        elif key in ("h", "?"):
            self.mode, self.scroll = "help", 0
        elif key == "s":
            orders = list(ORDERS)
            self.order = orders[(orders.index(self.order) + 1) % len(orders)]
            self.message = f"sorted by {self.order}"

    def _operate(self, key: str) -> Command | None:
        if key == "d":
            self.mode = "confirm"
        elif key in ("p", "r"):
            what = "pause" if key == "p" else "resume"
            if self.selected is None:
                self.message = f"choose the stage to {what} with up and down"
            else:
                return Command(what, self.selected)
        return None

    def _replay(self, key: str) -> Command | None:
        steps = {"left": -1, "right": 1, "pageup": -10, "pagedown": 10}
        if key in steps:
            self.playing = False
            return Command("step", amount=steps[key])
        if key in ("home", "end"):
            self.playing = False
            return Command("seek", amount=float(key == "end"))
        if key == " ":
            self.playing = not self.playing
        elif key in ("+", "=", "-"):
            at = SPEEDS.index(self.speed) + (-1 if key == "-" else 1)
            self.speed = SPEEDS[min(max(at, 0), len(SPEEDS) - 1)]
        elif key in ("p", "r", "d"):
            self.message = "this is a recording: nothing can be asked of it"
        return None
