"""Payloads as JSON, for the plugins that read or write it. JSON has no bytes, no NaN and no infinities: bytes become base64 text,
the others null."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from json.encoder import c_make_encoder as make  # type: ignore[attr-defined]
from json.encoder import encode_basestring
from typing import Any


def json_text(value: Any) -> str:
    """The value as one line of JSON, without spaces between its parts and without escapes for letters."""
    try:
        return _encode(value)
    except ValueError:  # there is a NaN; to look for one beforehand would cost as much as the encoding
        return _encode(_finite(value))


def value_of(body: bytes) -> Any:
    """As json.loads, which takes longer for a small map, since it looks for the encoding and for blanks around the value."""
    try:
        text = body.decode()
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except (ValueError, StopIteration):
        pass
    return json.loads(body)  # it has blanks around it, a mark or another encoding; or this says what is wrong


def _base64(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def _encoder() -> Callable[[Any], str]:
    """JSONEncoder makes an encoder in C for each value, which takes as long as to encode a small map. This one is made once."""
    if make is None:  # a Python that has it in Python only
        return json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_base64).encode
    encode = make(None, _base64, encode_basestring, None, ":", ",", False, False, False)
    return lambda value: "".join(encode(value, 0))


_encode = _encoder()
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value
