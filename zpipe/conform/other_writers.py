"""Frames as other writers make them: in longer forms of CBOR than they need, and without what may be missing.

Must not live here: what is said, or when.
"""

from __future__ import annotations

import struct
from typing import Any

from zpipe.core.wire import cbor, frames


def write_sparingly(value: Any) -> bytes:
    """The frame without every field that means the same where it is missing; and by an end of a later minor version."""
    if not isinstance(value, dict) or value.get("kind") not in frames.MISSING:
        return cbor.write(value)
    needless = frames.MISSING[value["kind"]]
    kept = {key: one for key, one in value.items() if key not in needless or needless[key] != one}
    later = {"minor": 9} if value["kind"] in ("hello", "welcome") else {}
    return cbor.write(kept | later)


def write_at_length(value: Any) -> bytes:
    """Integers have 64 bits and lengths have 32. Raises TypeError for what frames and payloads of the cases do not have."""
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value]
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, float):
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value.encode())) + value.encode()
    if isinstance(value, list | tuple):
        return _head(4, len(value)) + b"".join(map(write_at_length, value))
    if isinstance(value, dict):
        return _head(5, len(value)) + b"".join(
            write_at_length(key) + write_at_length(one) for key, one in value.items()
        )
    raise TypeError(f"{type(value).__name__} has no form here")


def _head(kind: int, number: int) -> bytes:
    if kind < 2:
        return bytes([kind << 5 | 27]) + struct.pack(">Q", number)
    return bytes([kind << 5 | 26]) + struct.pack(">I", number)
