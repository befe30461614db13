"""What stands above every view: the figures of the whole pipeline, and the sentence that says what holds it up. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zpipe.monitor.formatting import count, precise, share
from zpipe.monitor.model.history import sinks, totals
from zpipe.monitor.screen.pane import Choice, Pane, Region, Shown, join, known_instances, spark
from zpipe.monitor.table.columns import Line, clip, width_of, wrap
from zpipe.monitor.table.pipeline_status import remarks

NAMES = ("Pipeline", "Table", "Stage", "Links", "Dead letters", "Events")
SHORT_NAMES = ("Pipe", "Table", "Stage", "Links", "Dead", "Events")
TILES_HEIGHT = 40
"""From this height on the figures stand in tiles, each with how it went lately."""
TILE = 18
SHORT, TALL = 2, 4
"""Lines that the sentence may take, in a window of less than 30 lines and in a higher one."""
GRAVE = {"down": "bold bad", "held": "bold bad", "source": "good"}
_STYLES = {"red": "bad", "yellow": "warm", "bold yellow": "bold warm", "bold red": "bold bad"}


def header(shown: Shown, width: int, height: int) -> list[Line]:
    """One line, or four where there is height for tiles."""
    value, figures = shown.value, totals(shown.value)
    clock = _clock(shown)
    name: Line = [(f" {value['pipeline']}", "bold title")]
    rows = _figures(value, figures)
    tail = _tail(value)
    if height < TILES_HEIGHT or width < 7 * TILE - 8:
        parts = [name, *_progress(value), *([(f"{label} ", "dim"), figure] for _, label, figure in rows), *tail]
        # What is left out first is at the end; a figure that is there is whole.
        while len(parts) > 1 and width_of(join(parts)) + len(clock) + 3 > width:
            parts.pop()
        line = join(parts)
        return [[*line, (" " * max(width - width_of(line) - len(clock) - 1, 1), ""), (clock, "dim")]]
    top = join([name, *_progress(value), *tail], "   ")
    lines = [[*top, (" " * max(width - width_of(top) - len(clock) - 1, 1), ""), (clock, "dim")]]
    tile = max(min((width - 2) // len(rows) - 2, 40), TILE)
    labels, numbers, sparks = [(" ", "")], [(" ", "")], [(" ", "")]
    for key, label, figure in rows:
        labels.append((label.ljust(tile + 2)[: tile + 2], "dim"))
        numbers += [figure, (" " * max(tile + 2 - len(figure[0]), 0), "")]
        history = shown.history.totals(key)
        sparks += [*spark(history, tile, shown.glyphs), ("  ", "")]
    return [*lines, clip(labels, width), clip(numbers, width), clip(sparks, width)]


def _clock(shown: Shown) -> str:
    return f"recorded {shown.clock}" if shown.replay else shown.clock


def _figures(value: dict[str, Any], figures: dict[str, float | None]) -> list[tuple[str, str, tuple[str, str]]]:
    """(key in the history, label, figure)."""

    def rate(key: str) -> str:
        figure = figures[key]
        return "?" if figure is None else f"{count(figure)}/s"

    def time_of(key: str) -> str:
        figure = figures[key]
        return "-" if figure is None else precise(figure)

    dead = figures["dead"]
    ends = sinks(value)
    into = f"into {ends[0]}" if len(ends) == 1 else "into sinks"
    sunk = rate("sinks")
    return [
        ("in", "in", (rate("in"), "bold")),
        ("sinks", into, (sunk, "bold")),
        ("waiting", "waiting", (count(figures["waiting"] or 0.0), "bold")),
        ("dead", "dead letters", ("?" if dead is None else count(dead), "bold bad" if dead else "bold")),
        ("p50", "end to end p50", (time_of("p50"), "bold")),
        ("p99", "p99", (time_of("p99"), "bold")),
    ]


def _tail(value: dict[str, Any]) -> list[Line]:
    stages = value["stages"].values()
    live = sum(stage["live"] for stage in stages)
    known = sum(map(known_instances, stages))
    over = all(stage["state"] == "STOPPED" for stage in stages)
    restarts = sum(sum(stage["restarts"].values()) + sum(stage["worker_restarts"].values()) for stage in stages)
    instances = str(live) if live == known else f"{live} of {known}"
    short = "bold" if live == known or over else "bold bad"
    tail: list[Line] = [[("instances ", "dim"), (instances, short)]]
    tail.append([("restarts ", "dim"), (count(restarts), "bold warm" if restarts else "bold")])
    ends = sinks(value)
    if len(ends) > 1:  # each of them, since their sum says little
        for name in ends:
            rate = value["stages"][name]["rate_in"]
            tail.append([(f"into {name} ", "dim"), ("?" if rate is None else f"{count(rate)}/s", "bold")])
    return tail


def _progress(value: dict[str, Any]) -> list[Line]:
    """How far sources with an end are."""
    found: list[Line] = []
    for name, stage in value["stages"].items():
        progress = stage.get("progress")
        if progress and progress["total"]:
            done, total = progress["finished"], progress["total"]
            text = f"{share(done / total)} of {count(total)}"
            found.append([(f"{name} ", "dim"), (text, "bold")])
    return found


def tabs(choice: Choice, sorts: Sequence[str], width: int) -> Pane:
    """The views, how the rows are sorted, and what they are filtered by."""
    line: Line = []
    pane = Pane([line])
    x = 0
    for number, name in enumerate(NAMES if width >= 68 else SHORT_NAMES, 1):
        text = f" {number} {name} "
        pane.regions.append(Region(f"view:{number}", x, 0, len(text), 1))
        line.append((text, "bold chosen title" if number == choice.view else "dim"))
        x += len(text)
    if sorts and (at := choice.sort.get(choice.view, 0) % len(sorts)):
        line.append((f"  sorted by {sorts[at]}", "dim"))
    if choice.filter():
        line.append((f"  only: {choice.filters[choice.view]}", "warm"))
    return pane


def sentence(shown: Shown, width: int, height: int) -> list[Line]:
    """What holds the pipeline up and what to do, whole where there is room, then who is missing. Never empty."""
    value = shown.value
    most = TALL if height >= 30 else SHORT
    room = max(width - 2, 10)
    if shown.waits:
        return _indented(wrap(shown.waits, room, "warm"))[:most]
    found: list[Line] = []
    bottleneck = value["bottleneck"]
    if bottleneck:
        style = GRAVE.get(bottleneck["kind"], "bold warm")
        found += wrap(f"{bottleneck['why']}; {bottleneck['advice']}", room, style, indent="")
    rest = [[(text, _STYLES.get(style, style)) for text, style in line] for line in remarks(value, room)]
    if bottleneck:  # it stands at the end of the remarks, broken likewise
        said = len(wrap(f"{bottleneck['why']}; {bottleneck['advice']}", room))
        rest = rest[: len(rest) - said]
    found += rest
    if not found:
        found = [[(_quiet(value), "dim")]]
    most = max(most, min(len(found) - len(rest), max(3, min(6, height // 3))))
    return _indented(found[:most])


class SentenceRoom:
    """The lines that the sentence has had, so that what stands below does not move with every figure in it.

    A sentence of changing figures may take two lines now and three in a second. It keeps what it has had for as long as it is
    about the same, and so gives lines back when something else holds the pipeline up, or the window changes.
    """

    def __init__(self) -> None:
        self._about: tuple[Any, ...] = ()
        self._lines = 0

    def fill(self, value: dict[str, Any], said: list[Line], window: tuple[int, int]) -> list[Line]:
        bottleneck = value["bottleneck"] or {}
        about = (bottleneck.get("stage"), bottleneck.get("kind"), window)
        self._lines = max(self._lines, len(said)) if about == self._about else len(said)
        self._about = about
        return said + [[]] * (self._lines - len(said))


def _quiet(value: dict[str, Any]) -> str:
    stages = value["stages"].values()
    if all(stage["state"] == "STOPPED" for stage in stages):
        return "every instance has stopped"
    if not sum(link["depth"] for link in value["links"]) and not any(stage["rate_out"] for stage in stages):
        return "nothing flows and nothing waits"
    return "nothing holds the pipeline up as far as can be told yet"


def _indented(lines: Sequence[Line]) -> list[Line]:
    return [[(" ", ""), *line] for line in lines]
