"""The work of a middle stage, on every side the same and next to nothing, so that the transport is what is measured.

It imports nothing large, since it counts in the memory of the stage that runs it.
"""

from __future__ import annotations

from typing import Any


def touch(payload: dict[str, Any]) -> dict[str, Any]:
    payload["id"] += 1
    return payload


def touch_all(payloads: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For a stage that takes batches."""
    for payload in payloads:
        payload["id"] += 1
    return payloads
