"""The last stage on zpipe's side: a plugin that counts or times what arrives, and writes one JSON value to a file.

It is copied beside the benchmark's config and loaded by its path, like any plugin that is not packaged.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from zpipe import Context, Message, hookimpl


@dataclass
class Options:
    """measure: "rate" writes messages a second, over `count` messages after `warm_up`; "ages" writes the age of each message."""

    result: str
    measure: str
    warm_up: int
    count: int


@dataclass
class _Seen:
    messages: int = 0
    start: float = 0.0
    end: float = 0.0
    ages: list[float] = field(default_factory=list)


@hookimpl
def zpipe_options() -> type:
    return Options


@hookimpl
def zpipe_open(context: Context) -> None:
    context.scratch = _Seen()


@hookimpl
def zpipe_process(message: Message, context: Context) -> None:
    seen, options = context.scratch, context.options
    seen.messages += 1
    if options.measure == "ages":
        seen.ages.append(time.time() - message.origin)
    elif seen.messages == options.warm_up:
        seen.start = time.monotonic()
    elif seen.messages == options.warm_up + options.count:
        seen.end = time.monotonic()


@hookimpl
def zpipe_close(context: Context) -> None:
    seen, options = context.scratch, context.options
    measured = seen.ages[options.warm_up :] if options.measure == "ages" else options.count / (seen.end - seen.start)
    Path(options.result).write_text(json.dumps(measured))
