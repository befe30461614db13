"""A last stage whose work is to sleep; the first instance sleeps longer. It writes down each call."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from zpipe import Context, Message, Traits, hookimpl


@dataclass
class Options:
    folder: str
    seconds: float
    slower: float


@dataclass
class _Calls:
    seconds: float
    opened_at: float = field(default_factory=time.monotonic)
    calls: list[tuple[float, float]] = field(default_factory=list)


@hookimpl
def zpipe_options() -> type:
    return Options


@hookimpl
def zpipe_traits() -> Traits:
    return Traits(is_sink=True)


@hookimpl
def zpipe_open(context: Context) -> None:
    options: Options = context.options
    context.scratch = _Calls(options.seconds * (options.slower if context.instance == 1 else 1))
    Path(options.folder, f"{context.instance}.open").touch()


@hookimpl
def zpipe_process(message: Message, context: Context) -> None:
    calls: _Calls = context.scratch
    start = time.monotonic()
    time.sleep(calls.seconds)
    calls.calls.append((start, time.monotonic() - start))


@hookimpl
def zpipe_close(context: Context) -> None:
    calls: _Calls = context.scratch
    written = json.dumps({"opened_at": calls.opened_at, "calls": calls.calls})
    Path(context.options.folder, str(context.instance)).write_text(written)
