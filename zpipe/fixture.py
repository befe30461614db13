"""Messages as lines of a file: what `zpipe tap --save` writes and a plugin's tests read.

May live here: the JSON form of a message, both ways, without loss. It knows no pipeline.

JSON has neither bytes nor NaN nor keys that are not text, and Python neither writes nor reads numbers of thousands of digits.
These stand as maps with one key: {"$bytes": base64}, {"$float": "nan"}, {"$map": [[key, value], ...]}, {"$int": "0xff"}.
"""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

from zpipe.messages import Message

LARGEST_BITS = 2048
"""640 digits, fewer than the limit on digits can be set to (`sys.set_int_max_str_digits`)."""


def to_json(value: Any) -> Any:
    """A payload as `json.dumps` takes it; `from_json` gives it back."""
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
    """Raises ValueError for a map that only looks like one that `to_json` made."""
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


def as_row(message: Message) -> dict[str, Any]:
    """One line of a fixture as a map; keys of others may be added."""
    return {
        "id": message.id,
        "origin": message.origin,
        "attempt": message.attempt,
        "outlet": message.outlet,
        "headers": to_json(message.headers),
        "payload": to_json(message.payload),
    }


def load_fixture(path: Path | str) -> list[Message]:
    """The messages of a fixture file, in its order. Only `payload` is required in a line, so one may be written by hand.

    Raises ValueError that names the file and the line of what is no message.
    """
    messages = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or "payload" not in row:
                raise ValueError('a line is a map with at least "payload"')
            messages.append(
                Message(
                    from_json(row["payload"]),
                    id=str(row.get("id", f"fixture:{number}")),
                    origin=float(row.get("origin", 0.0)),
                    headers=from_json(row.get("headers")),
                    outlet=str(row.get("outlet", "")),
                    attempt=int(row.get("attempt", 1)),
                )
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}:{number}: {error}") from None
    return messages
