"""The terminal: its size, its keys, and writing lines to it. Everything that touches a tty belongs here, and nothing else.

Keys are read in cbreak mode without a thread; resizing interrupts the wait for them. Only lines that changed are written, so a
slow line (ssh) carries little.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from typing import TextIO

from rich.color import ColorSystem
from rich.console import COLOR_SYSTEMS, Console
from rich.style import Style

from zpipe.monitor.screen.screen import Size
from zpipe.monitor.table.columns import Line, width_of
from zpipe.monitor.table.glyphs import ASCII, UNICODE, Glyphs

ENDS = {"A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end"}
KEYS = {
    **{f"\x1b{lead}{end}": key for lead in "[O" for end, key in ENDS.items()},
    "\x1b[1~": "home",
    "\x1b[4~": "end",
    "\x1b[5~": "pageup",
    "\x1b[6~": "pagedown",
    "\r": "enter",
    "\n": "enter",
    "\x1b": "escape",
}
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[?25h\x1b[?1049l"


def is_screen(stream: TextIO) -> bool:
    """Whether lines can be put anywhere on it: a terminal, and not a dumb one."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")


def glyphs_of(stream: TextIO) -> Glyphs:
    # Python makes UTF-8 of the C locale, whose terminals are not known to have it.
    locale = next((one for key in ("LC_ALL", "LANG") if (one := os.environ.get(key))), "")
    if locale in ("C", "POSIX"):
        return ASCII
    encoding = (getattr(stream, "encoding", "") or "").lower().replace("-", "")
    return UNICODE if encoding.startswith("utf") else ASCII


def split_keys(text: str) -> Iterator[str]:
    """The keys in what was typed; sequences that are none of ours are passed over."""
    while text:
        known = max((one for one in KEYS if text.startswith(one)), key=len, default="")
        if known == "\x1b" and len(text) > 1 and text[1] in "[O":  # another function key
            end = next((at for at, char in enumerate(text[2:], 2) if "@" <= char <= "~"), len(text) - 1)
            text = text[end + 1 :]
            continue
        yield KEYS[known] if known else text[0]
        text = text[max(len(known), 1) :]


class Painter:
    """Styled text as escape sequences, in the colours that this terminal has and its user wants (NO_COLOR)."""

    def __init__(self, stream: TextIO) -> None:
        console = Console(file=stream)
        self._system: ColorSystem | None = COLOR_SYSTEMS[console.color_system] if console.color_system else None
        self._coloured = not console.no_color
        self._codes: dict[str, Style] = {}

    def paint(self, line: Line) -> str:
        return "".join(
            self._style(style).render(text, color_system=self._system) if style else text for text, style in line
        )

    def _style(self, name: str) -> Style:
        if name not in self._codes:
            style = Style.parse(name)
            self._codes[name] = style if self._coloured else style.without_color
        return self._codes[name]


def _end(number: int, frame: object) -> None:
    """Unwinds, so that the terminal is given back. The exit status is that of a shell for the signal."""
    raise SystemExit(128 + number)


class Terminal:
    """The whole terminal, from `with` on. At the end it is as it was before, whatever happens. Used by one thread."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._painter = Painter(self._stream)
        self.glyphs = glyphs_of(self._stream)
        self._keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self.has_keys = self._keys is not None
        self._before: list[object] | None = None
        self._handlers: dict[int, object] = {}
        self._wake, self._wakes = os.pipe()
        self._shown: list[str] = []
        self._size = Size(0, 0)

    def __enter__(self) -> Terminal:
        os.set_blocking(self._wakes, False)
        for number, handler in (
            (signal.SIGWINCH, lambda *_: self._resized()),
            (signal.SIGTSTP, lambda *_: self._stop()),
            (signal.SIGTERM, _end),
            (signal.SIGHUP, _end),
        ):
            self._handlers[number] = signal.signal(number, handler)
        if self._keys is not None:
            self._before = termios.tcgetattr(self._keys)
        self._take()
        return self

    def _take(self) -> None:
        if self._keys is not None:
            tty.setcbreak(self._keys)
        self._write(_ENTER)

    def _give_back(self) -> None:
        with contextlib.suppress(OSError, termios.error):  # a terminal that is gone
            self._write(_LEAVE)
            if self._keys is not None and self._before is not None:
                termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)  # type: ignore[arg-type]

    def _stop(self) -> None:
        """Ctrl-Z: the shell has the terminal until `fg`."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()
        self._size = Size(0, 0)  # all of it is to be drawn again
        self._resized()

    def __exit__(self, *_: object) -> None:
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)  # type: ignore[arg-type]
        os.close(self._wake)
        os.close(self._wakes)

    def _resized(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wakes, b"\0")

    @property
    def size(self) -> Size:
        # Not by COLUMNS and LINES first, as shutil has it: a shell that exports them does not follow the window.
        columns, lines = os.get_terminal_size(self._stream.fileno())
        if not columns or not lines:  # a terminal that was never told
            columns, lines = shutil.get_terminal_size()
        return Size(columns, lines)

    def keys(self, timeout_s: float) -> list[str]:
        """The keys that were pressed, as soon as there are any; [] when the time is up or the terminal has another size."""
        inputs = [self._wake] if self._keys is None else [self._wake, self._keys]
        ready, _, _ = select.select(inputs, [], [], max(0.0, timeout_s))
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._keys is not None and self._keys in ready:
            typed = os.read(self._keys, 4096)
            if not typed:
                raise KeyboardInterrupt  # the terminal hung up
            return list(split_keys(typed.decode(errors="replace")))
        return []

    def draw(self, lines: list[Line], size: Size) -> None:
        """Puts the lines on the screen; `size` is the one they were made for."""
        # A line as wide as the window has nothing after it to be erased, and erasing there would take its last character.
        painted = [self._painter.paint(line) + ("\x1b[K" if width_of(line) < size.width else "") for line in lines]
        fresh = size != self._size
        self._size = size
        parts = ["\x1b[2J"] if fresh else []
        for at, text in enumerate(painted):
            if fresh or at >= len(self._shown) or self._shown[at] != text:
                parts.append(f"\x1b[{at + 1};1H{text}")
        self._shown = painted
        if parts:
            self._write("".join(parts))

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
