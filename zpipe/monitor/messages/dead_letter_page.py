"""Dead letters for people and for scripts: a table of many, a page of one, and both as JSON. Must not live here: finding them."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from zpipe.core.work.stored_dead_letter import MESSAGE, StoredDeadLetter
from zpipe.monitor.formatting import duration, local_time, visible
from zpipe.monitor.messages.payload import as_json_value, payload_text

REASON_CHARACTERS = 200
LISTED = ("stage", "instance", "number", "id", "at", "kind", "reason", "attempts", "deaths", "replays")


def row(letter: StoredDeadLetter) -> dict[str, Any]:
    """What `zpipe dead list --json` prints of a letter."""
    fields = {key: getattr(letter, key) for key in LISTED}
    return {"letter": letter.name, **fields, "replaying": letter.replay_rate is not None}


def whole(letter: StoredDeadLetter) -> dict[str, Any]:
    """What `zpipe dead show --json` prints of a letter."""
    return row(letter) | {
        "origin": letter.origin,
        "source": letter.source,
        "incarnation": letter.incarnation,
        "traceback": letter.traceback,
        "history": letter.history,
        "headers": as_json_value(letter.headers),
        "payload": as_json_value(letter.payload),
    }


def table(letters: list[StoredDeadLetter], now: float) -> Table:
    """One line for each letter. The tries are its attempts; `+2d` after them says that its worker died twice."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    # rich shortens every column alike where there is too little room, but a shortened name names nothing.
    made.add_column("letter", no_wrap=True, min_width=max((len(letter.name) for letter in letters), default=0))
    made.add_column("age", no_wrap=True, min_width=4)
    made.add_column("id", overflow="ellipsis", no_wrap=True)
    made.add_column("tries", justify="right", no_wrap=True, min_width=5)
    made.add_column("reason", overflow="ellipsis", no_wrap=True)
    for letter in letters:
        reason = _plain(letter.reason[:REASON_CHARACTERS])
        if letter.replay_rate is not None:
            reason = f"(to be replayed) {reason}"
        tries = str(letter.attempts) + (f"+{letter.deaths}d" if letter.deaths else "")
        made.add_row(*map(Text, (letter.name, duration(max(now - letter.at, 0.0)), _plain(letter.id), tries, reason)))
    return made


def page(letter: StoredDeadLetter, now: float) -> str:
    """Everything that is known of one letter. Nothing in it can move a terminal's cursor: its words are a neighbour's."""
    lines = [
        f"letter     {letter.name}",
        f"id         {visible(letter.id)}",
        f"died       {local_time(letter.at)}, {duration(max(now - letter.at, 0.0))} ago",
        f"attempts   {letter.attempts}" + (f", and {letter.deaths} deaths of its worker" if letter.deaths else ""),
        f"reason     {_indented(letter.reason, 11).lstrip()}",
    ]
    if letter.kind != MESSAGE:
        lines.insert(2, f"kind       {visible(letter.kind)}: it cannot be replayed")
    if letter.origin:
        lines.insert(2, f"origin     {local_time(letter.origin)}")
    if letter.source:
        lines.insert(2, f"came by    {visible(letter.source)}")
    if letter.replays:
        lines.append(f"replays    {letter.replays}, in vain")
    if letter.replay_rate is not None:
        lines.append("replay     marked: its instance takes it when it runs")
    if letter.headers is not None:
        lines += ["headers", _indented(payload_text(letter.headers))]
    if letter.history:
        lines += ["history", *(_indented(line) for line in letter.history)]
    if letter.traceback:
        lines += ["traceback", _indented(letter.traceback.rstrip())]
    return "\n".join([*lines, "payload", _indented(payload_text(letter.payload))])


def _indented(text: str, columns: int = 4) -> str:
    return "\n".join(" " * columns + visible(line) for line in text.splitlines())


def _plain(text: str) -> str:
    """On one line, without anything that a terminal would obey."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())
