"""`schedule`: a source that gives a message at each of the times that a cron line names.

`cron` has the five fields of crontab(5) (minute, hour, day of month, month, day of week), or six, of which the last is
seconds. A payload is `{"due": "2026-01-31T06:00:00+01:00", …fields}`, with the time at which it was due, whenever it
comes. Where the clocks of a `timezone` change, a time that is skipped comes as soon as they go on, and one that is
repeated comes twice: leave it out where that matters.

| fault | what follows |
|---|---|
| a cron line or time zone that is none | `zpipe check` says so; the stage does not start |
| the clock is set back | what was given is not given again |

**Resume.** A position is the due time in seconds since the epoch. Times that were missed while the stage did not run are
made up for as `missed` says: `last`, one message for the latest of them; `all`; or `none`. At the very first start
nothing has been missed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from zpipe import Context, Message, Source, override
from zpipe_plugins.extras import require

_LOOK_S = 30.0
"""A longer wait is made in parts, so that a clock that is set, or a machine that slept, is noticed."""
_FIELDS = (5, 6)


@dataclass
class Options:
    cron: Annotated[str, "when, in five fields or six: `0 6 * * mon-fri` is 6 in the morning on working days"]
    timezone: Annotated[str | None, "such as `Europe/Berlin`; left out: UTC"] = None
    missed: Annotated[Literal["last", "all", "none"], "which of the times are made up for that were missed"] = "last"
    fields: Annotated[dict[str, Any], "what each payload has besides `due`"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "due" in self.fields:
            raise ValueError("fields has 'due', which schedule sets by itself: allowed is any other name")


class Schedule(Source[Options, int]):
    @override
    def check(self, options: Options, config_dir: Path) -> Iterable[tuple[str, str]]:
        require("schedule", "croniter")
        from croniter import croniter

        if len(options.cron.split()) not in _FIELDS or not croniter.is_valid(options.cron):
            yield "cron", "is no cron line: allowed are five fields, or six, such as '*/5 * * * *'"
        try:
            _zone(options)
        except (OSError, ValueError, KeyError):
            yield "timezone", "is not known here: allowed is a name of the IANA time zone database"

    @override
    def source(self, context: Context[Options, int]) -> Iterator[Message]:
        after = int(time.time()) if context.position is None else context.position
        for due in _due_times(context, after):
            moment = datetime.fromtimestamp(due, _zone(context.options))
            payload = {"due": moment.isoformat(), **context.options.fields}
            yield Message(payload, position=due, origin=float(due))


def _due_times(context: Context[Options, int], after: int) -> Iterator[int]:
    if context.position is not None and context.options.missed != "all":
        last = _last_before(context.options, time.time())
        if last > after:
            after = last
            if context.options.missed == "last":
                yield last
    for due in _times(context.options, after):
        while (left_s := due - time.time()) > 0:
            if context.stopping.wait(min(left_s, _LOOK_S)):
                return
        if context.stopping.is_set():
            return
        yield due


def _last_before(options: Options, now: float) -> int:
    from croniter import croniter

    return int(croniter(options.cron, datetime.fromtimestamp(int(now) + 1, _zone(options))).get_prev(float))


def _times(options: Options, after: int) -> Iterator[int]:
    """The due times after a moment, each later than the one before."""
    from croniter import croniter

    begin = datetime.fromtimestamp(after, _zone(options))
    times = croniter(options.cron, begin)
    last = after
    while True:
        due = int(times.get_next(float))
        if due > last:
            last = due
            yield due


def _zone(options: Options) -> ZoneInfo:
    return ZoneInfo(options.timezone or "UTC")
