"""Names that are made of a payload: the subject, topic, key or routing key that a sink publishes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any

from zpipe import Reject


def parts_of(option: str, text: str) -> list[tuple[str, str | None]]:
    """The template as (literal text, name of the field after it or None). Raises ValueError, for a `__post_init__`."""
    try:
        found = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{option} is {text!r}: {error}") from None
    for _, name, spec, conversion in found:
        if name is not None and (not name or spec or conversion or not set("[]").isdisjoint(name)):
            raise ValueError(f"{option} is {text!r}: between braces only the name of a field may stand, such as {{id}}")
    return [(literal, name) for literal, name, _, _ in found]


def filler(option: str, text: str, forbidden: str = "") -> Callable[[Any], str]:
    """fill(payload): the template's text for a payload. Rejects a message whose fields are missing or cannot stand there.

    forbidden  characters that would mean something else in the broker's names if they came from a field
    """
    parts = parts_of(option, text)
    if all(name is None for _, name in parts):
        whole = "".join(literal for literal, _ in parts)
        return lambda payload: whole

    def fill(payload: Any) -> str:
        return "".join(
            literal + ("" if name is None else _value(option, payload, name, forbidden)) for literal, name in parts
        )

    return fill


def _value(option: str, payload: Any, name: str, forbidden: str) -> str:
    value = payload.get(name) if isinstance(payload, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        what = "is missing or null" if value is None else "is empty" if value == "" else f"is a {type(value).__name__}"
        raise Reject(f"field {name!r}, which {option} needs, {what}: allowed are text and numbers")
    text = str(value)
    if found := sorted(set(forbidden).intersection(text)):
        raise Reject(
            f"field {name!r}, which {option} needs, is {text!r}: it may not have {', '.join(map(repr, found))}"
        )
    return text
