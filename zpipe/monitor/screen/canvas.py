"""The widgets that draw lines: panes, and the time line of a recording; and the colours of their styles. Must not live here: what
stands in a pane.

A pane is redrawn each second, and little of it changes. Only the cells that differ are drawn again: Textual's DataTable needs
four times the processor time for the same rows, and sends almost three times the bytes to the terminal.
"""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual.color import Color, ColorParseError
from textual.events import Click, MouseDown, MouseMove, MouseUp
from textual.geometry import Region as Area
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from zpipe.monitor.formatting import duration
from zpipe.monitor.screen.pane import Pane, Replay
from zpipe.monitor.table.columns import Line

_NO_STYLE = Style.null()
_FLAGS = {"bold": Style(bold=True), "reverse": Style(reverse=True)}
_PLAIN = {"dim": Style(dim=True), "chosen": Style(reverse=True), "title": Style(bold=True), "bad": Style(bold=True)}


class Palette:
    """The styles of a theme. `variables` are Textual's, by name; without colours only bold, dim and reverse are left."""

    def __init__(self, variables: dict[str, str], coloured: bool) -> None:
        self._known: dict[str, Style] = {}
        self._words = dict(_FLAGS)
        if not coloured:
            self._words |= _PLAIN
            return
        text, ground = _color(variables, "foreground", "#e0e0e0"), _color(variables, "background", "#121212")
        for word, name, fallback in (
            ("good", "success", "#4ebf71"),
            ("warm", "warning", "#ffa62b"),
            ("bad", "error", "#ba3c5b"),
            ("accent", "primary", "#0178d4"),
        ):
            self._words[word] = Style(color=_readable(_color(variables, name, fallback), ground).rich_color)
        self._words["dim"] = Style(color=text.blend(ground, 0.45).rich_color)
        self._words["line"] = Style(color=text.blend(ground, 0.3).rich_color)
        self._words["title"] = Style(
            color=_readable(_color(variables, "primary", "#0178d4"), ground).blend(text, 0.4).rich_color
        )
        self._words["chosen"] = Style(bgcolor=ground.blend(_color(variables, "primary", "#0178d4"), 0.35).rich_color)

    def style(self, words: str) -> Style:
        found = self._known.get(words)
        if found is None:
            found = sum((self._words.get(word, _NO_STYLE) for word in words.split()), _NO_STYLE)
            self._known[words] = found
        return found


def _color(variables: dict[str, str], name: str, fallback: str) -> Color:
    try:
        return Color.parse(variables.get(name, fallback))
    except ColorParseError:
        return Color.parse(fallback)


def _readable(color: Color, ground: Color) -> Color:
    """Lighter or darker, until it stands out from the background."""
    for step in range(8):
        tried = color.lighten(0.06 * step) if ground.brightness < 0.5 else color.darken(0.06 * step)
        if abs(tried.brightness - ground.brightness) > 0.3:
            return tried
    return color


class Canvas(ScrollView):
    """Shows a pane. A click on something in it is posted as `Picked`; the head of the pane does not scroll."""

    DEFAULT_CSS = "Canvas { height: 1fr; width: 1fr; }"

    class Picked(Message):
        """`times`: 1 for a click, 2 for a double one."""

        def __init__(self, key: str, times: int) -> None:
            super().__init__()
            self.key, self.times = key, times

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.can_focus = False
        self.pane = Pane()
        self._palette = Palette({}, True)
        self._head: list[Strip] = []
        self._strips: list[Strip] = []

    def show(self, pane: Pane, palette: Palette) -> None:
        """Draws what differs from what is shown."""
        fresh = palette is not self._palette
        self.pane, self._palette = pane, palette
        before_head, before = self._head, self._strips
        self._head = [self._strip(line) for line in pane.head]
        self._strips = [self._strip(line) for line in pane.lines]
        # Blanks at the end of a line need no scroll bar, which would lie on the last line.
        widest = max((_used(strip) for strip in (*self._head, *self._strips)), default=0)
        size = Size(widest if widest > self.size.width else 0, len(self._head) + len(self._strips))
        if size != self.virtual_size:
            self.virtual_size = size
            fresh = True
        if fresh or len(before_head) != len(self._head):
            self.refresh()
            return
        top, left = self.scroll_offset.y, self.scroll_offset.x
        changed = [
            _changed(old, new, y, left) for y, (old, new) in enumerate(zip(before_head, self._head, strict=True))
        ]
        for y, (old, new) in enumerate(zip(before, self._strips, strict=True)):
            changed.append(_changed(old, new, y - top + len(self._head), left))
        areas = [area for area in changed if area is not None and area.y < self.size.height]
        if areas:
            self.refresh(*areas)

    def keep(self, key: str) -> None:
        """Scrolls until what has this key is in the window."""
        region = self.pane.region(key)
        if region is None or not self.size.height:
            return
        room, top = self.size.height - len(self._head), self.scroll_offset.y
        if region.y < top:
            self.scroll_to(y=region.y, animate=False, immediate=True)
        elif region.y + region.height > top + room:
            self.scroll_to(y=region.y + region.height - room, animate=False, immediate=True)
        left, width = self.scroll_offset.x, self.size.width
        if region.width < width and not left <= region.x <= left + width - region.width:
            self.scroll_to(x=max(region.x - 2, 0), animate=False, immediate=True)

    def _strip(self, line: Line) -> Strip:
        style = self._palette.style
        return Strip([Segment(text, style(words)) for text, words in line if text])

    def render_line(self, y: int) -> Strip:
        head = len(self._head)
        at = y if y < head else y - head + self.scroll_offset.y
        rows = self._head if y < head else self._strips
        base = self.rich_style
        if at >= len(rows):
            return Strip.blank(self.size.width, base)
        left = self.scroll_offset.x
        return rows[at].crop_extend(left, left + self.size.width, base).apply_style(base)

    def on_click(self, event: Click) -> None:
        head = len(self._head)
        x, y = event.x + self.scroll_offset.x, event.y
        places = self.pane.buttons if y < head else [*self.pane.links, *self.pane.regions]
        y = y if y < head else y - head + self.scroll_offset.y
        for region in places:
            if region.x <= x < region.x + region.width and region.y <= y < region.y + region.height:
                self.post_message(self.Picked(region.key, event.chain))
                event.stop()
                return


def _used(strip: Strip) -> int:
    """Its cells without the blanks at its end."""
    return strip.cell_length - len(strip.text) + len(strip.text.rstrip())


def _changed(old: Strip, new: Strip, y: int, left: int) -> Area | None:
    """The cells of a line that differ, in the widget."""
    if old == new or y < 0:
        return None
    before, after = _cells(old), _cells(new)
    shorter = min(len(before), len(after))
    first = next((x for x in range(shorter) if before[x] != after[x]), shorter)
    last = max(len(before), len(after))
    if len(before) == len(after):
        last = next((x for x in range(shorter, first, -1) if before[x - 1] != after[x - 1]), first)
    start = max(first - left, 0)
    return Area(start, y, max(last - left - start, 1), 1)


def _cells(strip: Strip) -> list[tuple[str, Style | None]]:
    return [(char, segment.style) for segment in strip for char in segment.text]


class TimeLine(Widget):
    """Where a recording is. A click moves it there, and so does dragging."""

    DEFAULT_CSS = "TimeLine { height: 1; width: 1fr; }"

    class Moved(Message):
        """`part`: 0 at the beginning of the recording, 1 at its end."""

        def __init__(self, part: float) -> None:
            super().__init__()
            self.part = part

    def __init__(self, id: str, is_replay: bool) -> None:
        super().__init__(id=id)
        self.display = is_replay
        self._shown: tuple[Replay, Palette, bool] | None = None
        self._dragged = False

    def show(self, replay: Replay, palette: Palette, ascii_only: bool) -> None:
        if (replay, palette, ascii_only) != self._shown:
            self._shown = replay, palette, ascii_only
            self.refresh()

    def render_line(self, y: int) -> Strip:
        if self._shown is None:
            return Strip.blank(self.size.width)
        replay, palette, ascii_only = self._shown
        line = time_line(replay, self.size.width, ascii_only)
        base = self.rich_style
        made = Strip([Segment(text, palette.style(words)) for text, words in line])
        return made.crop_extend(0, self.size.width, base).apply_style(base)

    def on_mouse_down(self, event: MouseDown) -> None:
        self._dragged = True
        self.capture_mouse()
        self._move(event.x)

    def on_mouse_move(self, event: MouseMove) -> None:
        if self._dragged:
            self._move(event.x)

    def on_mouse_up(self, event: MouseUp) -> None:
        self._dragged = False
        self.release_mouse()

    def _move(self, x: int) -> None:
        if self._shown is not None:
            start, cells = track(self._shown[0], self.size.width)
            self.post_message(self.Moved(min(max((x - start) / max(cells - 1, 1), 0.0), 1.0)))


def _ends(replay: Replay) -> tuple[str, str]:
    how = f"playing x{replay.speed:g}" if replay.playing else "stopped"
    about = f" ({duration(replay.length_s)})" if replay.length_s >= 100 else ""
    return f" {how}  +{replay.at_s:.1f} s ", f" of {replay.length_s:.1f} s{about} "


def track(replay: Replay, width: int) -> tuple[int, int]:
    """Where the line itself begins, and how many cells it has. It does not move while the recording plays."""
    left, right = _ends(replay._replace(at_s=replay.length_s))
    return len(left), max(width - len(left) - len(right), 1)


def time_line(replay: Replay, width: int, ascii_only: bool) -> Line:
    left, right = _ends(replay)
    start, cells = track(replay, width)
    at = round(replay.at_s / replay.length_s * (cells - 1)) if replay.length_s else 0
    past, knob, rest = ("=", "O", "-") if ascii_only else ("━", "●", "─")
    line: Line = [(left.ljust(start), "bold"), (past * at, "accent"), (knob, "bold accent")]
    return [*line, (rest * (cells - at - 1), "dim"), (right, "dim")]
