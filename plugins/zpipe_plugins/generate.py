"""`generate`: a source that makes numbered maps, as fast as they are taken or at a steady rate.

A payload is `{"id": n, …fields, "blob": …}` with n from 0. With `rate` each message has its due time, so the rate does
not drift; after a stall at most one second's worth is caught up at once.

**Resume.** A position is n, so a start goes on with the next number, and a message that comes again is the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count as numbers_from
from typing import Annotated, Any

from zpipe import Context, Size, Source, override

_STRIDE = 256
"""How many messages are made between two checks of `context.stopping`, which costs 30 ns. A message costs 200 ns."""
_CATCH_UP_S = 1.0
"""After a wait (a full queue, a pause) at most the messages of this time are made up for. Otherwise a pause of an hour would end
with the messages of an hour at once."""

_PLAIN = (type(None), bool, int, float, str, bytes)


@dataclass
class Options:
    count: Annotated[int | None, "how many messages; left out: without end"] = None
    rate: Annotated[float | None, "messages a second; left out: as fast as they are taken"] = None
    fields: Annotated[dict[str, Any], "what each payload has besides its id"] = field(default_factory=dict)
    size: Annotated[Size | None, "of `blob` in each payload; left out: no blob"] = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 0:
            raise ValueError(f"count is {self.count}: allowed is 0 or more, or to leave it out for an endless source")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ValueError(f"rate is {self.rate}: allowed is any number above 0 (per second), or to leave it out")
        own = {"id"} if self.size is None else {"id", "blob"}
        for name, value in self.fields.items():
            if name in own:
                raise ValueError(f"fields has {name!r}, which generate sets by itself: allowed is any other name")
            if not _is_plain(value):
                kind = type(value).__name__
                raise ValueError(f"fields.{name} has a {kind}: allowed are text, numbers, booleans, arrays and tables")


def _is_plain(value: Any) -> bool:
    """Whether a message can hold the value. TOML also has dates and times, which a message cannot hold."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


class Generate(Source[Options, int]):
    @override
    def total(self, context: Context[Options, int]) -> int | None:
        count = context.options.count
        return None if count is None else max(0, count - _first(context))

    @override
    def source(self, context: Context[Options, int]) -> Iterator[tuple[int, dict[str, Any]]]:
        options = context.options
        # All payloads share its values. Each payload is encoded before anybody could change one.
        template = {"id": 0, **options.fields}
        if options.size is not None:
            template["blob"] = b"\0" * options.size
        if options.rate is not None:
            return _paced(context, options.rate, template)
        return _unpaced(context, template)


def _first(context: Context[Options, int]) -> int:
    return 0 if context.position is None else context.position + 1


def _unpaced(context: Context[Options, int], template: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    end = context.options.count
    is_stopping, copy = context.stopping.is_set, template.copy
    for base in numbers_from(_first(context), _STRIDE):
        if is_stopping() or (end is not None and base >= end):
            return
        for n in range(base, base + _STRIDE if end is None else min(base + _STRIDE, end)):
            payload = copy()  # 0.05 µs less than to make it of its parts
            payload["id"] = n
            yield n, payload


def _paced(
    context: Context[Options, int], rate: float, template: dict[str, Any]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each message has a due time, counted from the start. So the next ones make up for a wait that took too long."""
    first = _first(context)
    end = context.options.count
    stopping = context.stopping
    clock = time.monotonic
    start = clock()
    for n in numbers_from(first) if end is None else range(first, end):
        ahead = start + (n - first) / rate - clock()
        if ahead > 0:
            stopping.wait(ahead)
        elif ahead < -_CATCH_UP_S:
            start -= ahead + _CATCH_UP_S
        if stopping.is_set():
            return
        yield n, {**template, "id": n}
