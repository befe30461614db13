"""Payloads as JSON that people read and edit, and what an edit makes of a payload. Must not live here: the editor that a person
uses.

JSON has no bytes: they become `{"$utf8": "text"}` if they are text, else `{"$base64": "..."}`. A number with more digits than
Python writes becomes `{"$int": "0xff"}`. A map that looks like one of these becomes `{"$map": {...}}`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from zpipe.core.wire import cbor
from zpipe.fixture import LARGEST_BITS

UTF8, BASE64, INT, MAP = "$utf8", "$base64", "$int", "$map"
_TAGS = frozenset({UTF8, BASE64, INT, MAP})
UNCHANGED: Final = object()
"""Stands for the payload that nobody has edited, since every value may be one."""


def as_json_value(value: Any) -> Any:
    """The value as `json.dumps` takes it."""
    if isinstance(value, bytes):
        return _bytes_as_json(value)
    if isinstance(value, list | tuple):
        return [as_json_value(item) for item in value]
    if isinstance(value, dict):
        plain = {_key_as_json(key): as_json_value(item) for key, item in value.items()}
        return {MAP: plain} if len(plain) == 1 and not _TAGS.isdisjoint(plain) else plain
    if isinstance(value, int) and value.bit_length() > LARGEST_BITS:
        return {INT: hex(value)}
    return value


def payload_text(value: Any) -> str:
    """Its JSON, indented for people."""
    return json.dumps(as_json_value(value), indent=2, ensure_ascii=False)


def read_payload(text: str) -> Any:
    """The value that such JSON stands for. Raises ValueError that says where and what is wrong."""
    try:
        return _read(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, inner),) = value.items()
        if key in (UTF8, BASE64):
            if not isinstance(inner, str):
                raise ValueError(f"{key} stands for bytes and takes text, not {inner!r}")
            return inner.encode() if key == UTF8 else _bytes(inner)
        if key == INT:
            return _int(inner)
        if key == MAP and isinstance(inner, dict):
            value = inner
    return {_read_key(key): _read(item) for key, item in value.items()}


def _bytes_as_json(value: bytes) -> dict[str, str]:
    with suppress(UnicodeDecodeError):
        text = value.decode()
        if all(one.isprintable() or one in "\n\r\t" for one in text):
            return {UTF8: text}
    return {BASE64: base64.b64encode(value).decode()}


def _key_as_json(key: Any) -> str:
    return f"{BASE64}:{base64.b64encode(key).decode()}" if isinstance(key, bytes) else str(key)


def _read_key(key: str) -> str | bytes:
    return _bytes(key[len(BASE64) + 1 :]) if key.startswith(f"{BASE64}:") else key


def _int(text: Any) -> int:
    try:
        return int(text, 16)
    except (TypeError, ValueError):
        raise ValueError(f"{INT} stands for a number and takes it in hexadecimal, not {str(text)[:60]!r}") from None


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError(f"{text[:60]!r} is not base64") from None


# ---- editing


def editable_text(payload: Any) -> str:
    """The text to give to an editor. Raises ValueError for a payload that would not come back from it unchanged."""
    text = payload_text(payload)
    if cbor.write(read_payload(text)) != cbor.write(payload):
        raise ValueError("has a payload that JSON cannot hold: give --payload FILE")
    return text + "\n"


def with_fields(payload: Any, assignments: Iterable[str]) -> Any:
    """The payload with each FIELD=JSON set. Raises ValueError."""
    if not isinstance(payload, dict):
        raise ValueError("has a payload without fields: give --payload FILE")
    changed = dict(payload)
    for assignment in assignments:
        field, equals, text = assignment.partition("=")
        if not equals or not field:
            raise ValueError(f"--set takes FIELD=JSON, not {assignment!r}")
        try:
            changed[field] = read_payload(text)
        except ValueError:
            raise ValueError(
                f"--set {field}: {text!r} is not JSON (text needs its quotes: '{field}=\"text\"')"
            ) from None
    return changed
