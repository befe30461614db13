"""`join_text`: joins the texts of a batch into one, for all of its messages or for those that share a field.

A text is the payload itself, or its field `field`. What comes out is `{field: the text, "messages": how many}`, and with
`by` also that field, in the order in which each value of it came first. The stage needs a `batch` table, which says how
many messages at most are joined, and how long one waits for others.

| fault | what follows |
|---|---|
| a payload without the text, or without `by` | tried again apart from its batch, then a dead letter |

**Redelivery.** The id is made from those of the whole batch, and after a crash the messages may be batched otherwise:
what was joined may come again, joined with others. To be exact, hold messages by what is in them, as a window does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from zpipe import BatchMap, Context, Message, override


@dataclass
class Options:
    field: Annotated[str, "the field with the text, where a payload is a map, and in what comes out"] = "text"
    by: Annotated[str | None, "messages that have the same value in this field are joined; left out: all"] = None
    separator: Annotated[str, "between two texts"] = "\n"


class JoinText(BatchMap[Options]):
    @override
    def process_batch(self, messages: list[Message], context: Context[Options]) -> Iterator[Any]:
        options = context.options
        groups: dict[Any, list[str]] = {}
        for message in messages:
            groups.setdefault(_group(options, message.payload), []).append(_text(options, message.payload))
        return iter([_joined(options, group, texts) for group, texts in groups.items()])


def _text(options: Options, payload: Any) -> str:
    text = payload.get(options.field) if isinstance(payload, dict) else payload
    if not isinstance(text, str):
        raise ValueError(f"the text, field {options.field!r}, is a {type(text).__name__}")
    return text


def _group(options: Options, payload: Any) -> Any:
    if options.by is None:
        return None
    value = payload.get(options.by) if isinstance(payload, dict) else None
    if not isinstance(value, str | int | float | bool):
        raise ValueError(f"field {options.by!r}, by which messages are joined, is a {type(value).__name__}")
    return value


def _joined(options: Options, group: Any, texts: list[str]) -> dict[str, Any]:
    made = {options.field: options.separator.join(texts), "messages": len(texts)}
    return made if options.by is None else {options.by: group, **made}
