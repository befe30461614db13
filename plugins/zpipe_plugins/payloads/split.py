"""`split`: makes a message of each element of a list, or of each part of a text.

`field = "lines"` takes the list from that field; without it the payload itself is the list. `separator` is for texts:
`"\\n"` makes a message of each line, and empty parts are left out. With `keep` each message is the map it came from, with
the one element in the place of the list.

| fault | what follows |
|---|---|
| the field is missing, or is no list (with `separator`: no text) | a dead letter |

**Redelivery.** Each part has the id of the message and its place in it, so the parts are the same again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from zpipe import Context, Map, Message, Reject, override


@dataclass
class Options:
    field: Annotated[str | None, "the field with the list or the text; left out: the payload itself"] = None
    separator: Annotated[str | None, "between the parts of a text; left out: a list is split"] = None
    keep: Annotated[bool, "whether each message has the other fields of the payload, too"] = False

    def __post_init__(self) -> None:
        if self.separator == "":
            raise ValueError("separator is empty: allowed is any text, or to leave it out")
        if self.keep and self.field is None:
            raise ValueError("keep is for the fields beside the one that is split: set `field`")


class Split(Map[Options]):
    @override
    def process(self, message: Message, context: Context[Options]) -> Iterator[Any]:
        options = context.options
        parts = _parts(options, message.payload)
        if options.keep and options.field is not None:
            return ({**message.payload, options.field: part} for part in parts)
        return (Message(part) for part in parts)


def _parts(options: Options, payload: Any) -> list[Any]:
    found = payload
    if options.field is not None:
        if not isinstance(payload, dict) or options.field not in payload:
            raise Reject(f"field {options.field!r}, which is to be split, is missing")
        found = payload[options.field]
    if options.separator is None and isinstance(found, list):
        return found
    if options.separator is not None and isinstance(found, str):
        return [part for part in found.split(options.separator) if part]
    what = "the payload" if options.field is None else f"field {options.field!r}"
    allowed = "a list" if options.separator is None else "text"
    raise Reject(f"{what} is a {type(found).__name__}: allowed is {allowed}")
