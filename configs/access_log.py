"""What two stages of access_log.toml do: a line of an access log as a map, and the requests of a minute as one row.

A minute is closed when a request has come that is later by `late`, by the log's own time and not by the clock, and its
row is stored under its minute. A request that comes after that is passed over: it is one that was read again after a
kill, or came later than `late` allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import zpipe

LINE = re.compile(
    r'(?P<client>\S+) \S+ (?P<user>\S+) \[(?P<at>[^\]]+)\] "(?P<method>[A-Z]+) (?P<path>\S+)[^"]*" '
    r'(?P<status>\d{3}) (?P<bytes>\d+|-)(?: "(?P<referer>[^"]*)" "(?P<agent>[^"]*)")?(?: (?P<seconds>[\d.]+))?'
)
"""The format `combined` of Apache and nginx, and the seconds that the request took, if they are there."""
SLOW_S = 1.0


def parse(payload: dict[str, Any]) -> Any:
    found = LINE.match(payload["text"])
    if found is None:
        raise zpipe.Reject("it is no line of an access log")
    at = datetime.strptime(found["at"], "%d/%b/%Y:%H:%M:%S %z")
    return {
        "client": found["client"],
        "at": at.timestamp(),
        "method": found["method"],
        "path": found["path"].partition("?")[0],
        "status": int(found["status"]),
        "bytes": int(found["bytes"]) if found["bytes"] != "-" else 0,
        "seconds": float(found["seconds"] or 0.0),
    }


@dataclass
class Options:
    late: Annotated[zpipe.Duration, "how much later a request must be for its minute and those before to be closed"] = (
        120.0
    )


class Minutes(zpipe.Map[Options]):
    def __init__(self) -> None:
        self.open_minutes: dict[int, dict[str, list[zpipe.Message]]] = {}
        self.latest = 0.0
        self.closed = 0

    @zpipe.override
    def process(self, message: zpipe.Message, context: zpipe.Context[Options]) -> Any:
        at = message.payload["at"]
        if at // 60 < self.closed:
            context.metrics.counter("late").inc()
            return zpipe.DROP
        context.hold(message)
        minute = self.open_minutes.setdefault(int(at) // 60, {})
        minute.setdefault(message.id, []).append(message)  # one that was read again is held beside the first
        self.latest = max(self.latest, at)
        return None

    @zpipe.override
    def tick(self, context: zpipe.Context[Options]) -> Iterator[Any]:
        self.closed = max(self.closed, int(self.latest - context.options.late) // 60)
        for minute in sorted(minute for minute in self.open_minutes if minute < self.closed):
            yield self.row(minute, context)

    @zpipe.override
    def flush(self, context: zpipe.Context[Options]) -> Iterator[Any]:
        for minute in sorted(self.open_minutes) if not context.leaving else []:
            yield self.row(minute, context)

    def row(self, minute: int, context: zpipe.Context[Options]) -> Any:
        held = self.open_minutes.pop(minute)
        requests = [messages[0].payload for messages in held.values()]
        seconds = sorted(request["seconds"] for request in requests)
        row = {
            "minute": datetime.fromtimestamp(minute * 60).astimezone().isoformat(timespec="minutes"),
            "requests": len(requests),
            "clients": len({request["client"] for request in requests}),
            "failed": sum(request["status"] >= 500 for request in requests),
            "not_found": sum(request["status"] == 404 for request in requests),
            "bytes": sum(request["bytes"] for request in requests),
            "slow": sum(request["seconds"] >= SLOW_S for request in requests),
            "p95_s": seconds[int(len(seconds) * 0.95)],
        }
        return context.release(row, [message for messages in held.values() for message in messages])
