"""A payload on its way through a person's hands. May live here: making text of it and a payload of the text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from zpipe.core.wire import cbor
from zpipe.monitor.messages import payload as texts

UNCHANGED: Final = object()


def read(text: str) -> Any:
    """Raises ValueError that says where the text is no JSON."""
    try:
        return texts.read(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None


def editable(payload: Any) -> str:
    """Raises ValueError for one that would not come back as it is."""
    text = texts.as_text(payload)
    if cbor.write(texts.read(text)) != cbor.write(payload):
        raise ValueError("has a payload that JSON cannot hold: give --payload FILE")
    return text + "\n"


def with_fields(payload: Any, given: Iterable[str]) -> Any:
    """The payload with FIELD=JSON set. Raises ValueError."""
    if not isinstance(payload, dict):
        raise ValueError("has a payload without fields: give --payload FILE")
    changed = dict(payload)
    for one in given:
        field, equals, text = one.partition("=")
        if not equals or not field:
            raise ValueError(f"--set takes FIELD=JSON, not {one!r}")
        try:
            changed[field] = read(text)
        except ValueError:
            raise ValueError(
                f"--set {field}: {text!r} is not JSON (text needs its quotes: '{field}=\"text\"')"
            ) from None
    return changed
