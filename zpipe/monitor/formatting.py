"""Numbers and names as short text, for tables. Must not live here: the tables."""

from __future__ import annotations

import re
import time
from typing import Any

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that move a cursor, end a line, or turn the direction of writing."""


def visible(text: str) -> str:
    """The text with an escape for each character that could move a terminal's cursor, colour it, or turn what follows around."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def visible_lines(text: str) -> str:
    """The same of a text of several lines, which stay lines."""
    return "\n".join(map(visible, text.split("\n")))


def count(number: float) -> str:
    """At most five characters: 0, 7.5, 950, 12.3k, 4.1M."""
    if number < 10 and number != int(number):
        return f"{number:.1f}"
    for unit in ("", "k", "M", "G"):
        if abs(number) < 999.5:
            return f"{number:.1f}{unit}" if unit and abs(number) < 99.95 else f"{number:.0f}{unit}"
        number /= 1000
    return f"{number:.0f}T"


def size(number: float) -> str:
    """4.1 MiB, 31 MiB, 1.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def duration(seconds: float) -> str:
    """0.5s, 12s, 3m, 2h, 4d."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    for unit, length in (("s", 60.0), ("m", 60.0), ("h", 24.0)):
        if seconds < length * 1.5:
            return f"{seconds:.0f}{unit}"
        seconds /= length
    return f"{seconds:.0f}d"


def spelled(seconds: float) -> str:
    """In a sentence: 12 s, 61 min, 3 h, 4 d."""
    for unit, length in (("s", 60.0), ("min", 60.0), ("h", 24.0)):
        if seconds < length * 2:
            return f"{seconds:.0f} {unit}"
        seconds /= length
    return f"{seconds:.0f} d"


def precise(seconds: float) -> str:
    """At most five characters: 0.4ms, 25ms, then as `duration`."""
    if seconds >= 0.9995:
        return duration(seconds)
    return f"{seconds * 1e3:.0f}ms" if seconds >= 0.00995 else f"{seconds * 1e3:.1f}ms"


def share(part: float) -> str:
    return f"{100 * part:.0f}%"


def local_time(at: float) -> str:
    """Seconds since the epoch as a date and time of day. An instance may have sent any number."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return "?"


def clock(at: float) -> str:
    """The time of day, as this machine's clock says it. An instance may have sent any number."""
    return local_time(at)[11:] or "?"


def percent(part: float) -> str:
    """Like `share`, but empty for a share that would be shown as 0."""
    return share(part) if part >= 0.005 else ""


def cut(name: str, width: int, mark: str = "…") -> str:
    """Cuts out the middle of a name, since names of stages differ at their ends as often as at their beginnings."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}{mark}{name[len(name) - tail :]}"


def crash_text(crash: dict[str, Any]) -> str:
    """How a process ended, from a snapshot's `last_crash`: "killed by SIGSEGV, in the call for read:17"."""
    ids, messages = crash.get("ids", []), crash.get("messages_in_call", 0)
    how = visible(crash.get("how", "unknown"))
    if not messages:
        return how
    if not ids:
        return f"{how}, with {messages:,} in a call"
    more = f" and {messages - len(ids):,} more" if messages > len(ids) else ""
    return f"{how}, in the call for {visible(', '.join(ids))}{more}"
