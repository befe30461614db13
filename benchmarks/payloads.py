"""What messages carry. All sides send the same, so that nothing else differs between them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Payload:
    """A map: "id", the number of the message, then `fields`, then `blob_bytes` of "blob". It is what `generate` makes.

    stride  a sink notes every so many of them: about a thousand times a second
    """

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    blob_bytes: int | None = None
    stride: int = 64

    def constant(self) -> dict[str, Any]:
        blob = {} if self.blob_bytes is None else {"blob": b"\0" * self.blob_bytes}
        return {**self.fields, **blob}

    def options(self) -> str:
        """The same as options of `generate`, in TOML."""
        size = "" if self.blob_bytes is None else f", size = {self.blob_bytes}"
        return f"fields = {_inline(self.fields)}{size}"


def _inline(value: Any) -> str:
    """TOML writes strings, numbers, booleans and arrays as JSON does; only tables differ."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_inline(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


_FLAT: dict[str, Any] = {
    "user": "ada.lovelace",
    "item": "widget-042",
    "price": 19.99,
    "count": 3,
    "region": "eu-west-1",
    "ok": True,
}
_NESTED: dict[str, Any] = {
    "user": {"name": "ada.lovelace", "address": {"city": "London", "zip": "SW1Y"}},
    "items": [{"sku": "widget-042", "price": 19.99, "count": 3}, {"sku": "gear-7", "price": 4.5, "count": 1}],
    "tags": ["new", "eu-west-1"],
    "ok": True,
}

FLAT = Payload("90 B", _FLAT)
NESTED = Payload("nested", _NESTED)
SMALL = Payload("16 B", blob_bytes=1)
KILOBYTE = Payload("1 kB", blob_bytes=1000)
LARGE = Payload("64 kB", blob_bytes=64_000, stride=8)
HUGE = Payload("1 MB", blob_bytes=1_000_000, stride=1)
ALL = (FLAT, NESTED, SMALL, KILOBYTE, LARGE, HUGE)
BY_NAME = {payload.name: payload for payload in ALL}
