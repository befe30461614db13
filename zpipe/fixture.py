"""Messages as lines of a fixture file, which `zpipe tap --save` writes and the tests of a plugin read.

Messages become JSON and come back without loss. JSON has no bytes, no NaN and no keys other than text, and Python neither
writes nor reads numbers of thousands of digits. So these become maps with one key: {"$bytes": base64}, {"$float": "nan"},
{"$map": [[key, value], ...]}, {"$int": "0xff"}. Does not belong here: anything about a pipeline.
"""

from __future__ import annotations

import base64
import inspect
import json
import math
from pathlib import Path
from typing import Any

from zpipe.messages import Message

LARGEST_BITS = 2048
"""Such a number has fewer than 640 digits, which is the lowest limit that `sys.set_int_max_str_digits` can be given."""


def to_json(value: Any) -> Any:
    """A payload in a form that `json.dumps` takes. `from_json` turns it back."""
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: to_json(item) for key, item in value.items()}
        return {"$map": [[to_json(key), to_json(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if isinstance(value, int) and value.bit_length() > LARGEST_BITS:
        return {"$int": hex(value)}
    return value


def from_json(value: Any) -> Any:
    """The value that `to_json` was given. Raises ValueError for a map that only looks as if `to_json` had made it."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$bytes": str(text), **rest} if not rest:
            return base64.b64decode(text, validate=True)
        case {"$float": str(text), **rest} if not rest:
            return float(text)
        case {"$int": str(text), **rest} if not rest:
            return int(text, 16)
        case {"$map": list(pairs), **rest} if not rest:
            return {from_json(key): from_json(item) for key, item in pairs}
    return {key: from_json(item) for key, item in value.items()}


_DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(Message).parameters.items()}
_SAVED = (*(name for name in _DEFAULTS if name not in ("payload", "position", "source")), "payload")
"""Every field, so that none is lost, but for the two that are said by the pipeline in which the message is."""


def as_row(message: Message) -> dict[str, Any]:
    """A message as the map that is one line of a fixture. A caller may add keys."""
    return {name: to_json(getattr(message, name)) for name in _SAVED}


def load_fixture(path: Path | str) -> list[Message]:
    """The messages of a fixture file, in the order of the file. A line needs only `payload`, so it is easily written by hand.

    Raises ValueError that names the file and the line if a line is no message.
    """
    messages = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or "payload" not in row:
                raise ValueError('a line is a map with at least "payload"')
            messages.append(_message({"id": f"fixture:{number}"} | row))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}:{number}: {error}") from None
    return messages


def _message(row: dict[str, Any]) -> Message:
    """Fields that are texts or numbers are made such, in whatever way they were written by hand."""
    saved: dict[str, Any] = {}
    for name in (name for name in _SAVED if name in row):
        value, default = from_json(row[name]), _DEFAULTS[name]
        saved[name] = type(default)(value) if isinstance(default, str | int | float) else value
    return Message(**saved)
