"""Payloads as JSON that people read and edit. May live here: both ways between plain CBOR values and JSON.

JSON has no bytes: they are `{"$utf8": "text"}` where they are text, else `{"$base64": "..."}`. A number with more digits than
Python writes is `{"$int": "0xff"}`. A map that looks like one of these is `{"$map": {...}}`.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from zpipe.fixture import LARGEST_BITS

UTF8, BASE64, INT, MAP = "$utf8", "$base64", "$int", "$map"
_TAGS = frozenset({UTF8, BASE64, INT, MAP})


def shown(value: Any) -> Any:
    """What `json.dumps` takes."""
    if isinstance(value, bytes):
        return _shown_bytes(value)
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    if isinstance(value, dict):
        plain = {_shown_key(key): shown(item) for key, item in value.items()}
        return {MAP: plain} if len(plain) == 1 and not _TAGS.isdisjoint(plain) else plain
    if isinstance(value, int) and value.bit_length() > LARGEST_BITS:
        return {INT: hex(value)}
    return value


def as_text(value: Any) -> str:
    """Indented, as an editor is given it."""
    return json.dumps(shown(value), indent=2, ensure_ascii=False)


def read(text: str) -> Any:
    """The value that such JSON stands for. Raises ValueError with where and what is wrong."""
    try:
        return _read(json.loads(text))
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


def _shown_bytes(value: bytes) -> dict[str, str]:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return {BASE64: base64.b64encode(value).decode()}
    if all(one.isprintable() or one in "\n\r\t" for one in text):
        return {UTF8: text}
    return {BASE64: base64.b64encode(value).decode()}


def _shown_key(key: Any) -> str:
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
