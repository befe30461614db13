"""Values of databases and files as payloads have them: what a payload can have as it is, all others as text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time
from typing import Any

_PLAIN = {type(None), bool, int, float, str, bytes}


def plain_rows(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """Rows as payloads."""
    return plain_columns(names, list(zip(*rows, strict=True)))


def plain_columns(names: Sequence[str], columns: list[Sequence[Any]]) -> list[dict[str, Any]]:
    """Columns as payloads. It looks at a column at a time, since nearly all have one plain type."""
    for index, column in enumerate(columns):
        if not set(map(type, column)) <= _PLAIN:
            columns[index] = tuple(map(plain_value, column))
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def plain_value(value: Any) -> Any:
    """What a payload can have, of a value that a database has given: times as ISO 8601, bytes as bytes, all others as text."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, list | tuple):
        return [plain_value(one) for one in value]
    if isinstance(value, dict):
        return {str(key): plain_value(one) for key, one in value.items()}
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value)
