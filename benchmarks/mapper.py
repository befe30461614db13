"""The work of the middle stage on both sides. It is next to nothing, so that the transport is what is measured."""

from __future__ import annotations

from typing import Any


def touch(payload: dict[str, Any]) -> dict[str, Any]:
    payload["count"] += 1
    return payload
