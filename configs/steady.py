"""What the `square` stage of steady.toml does."""

from __future__ import annotations

from typing import Any


def square(payload: dict[str, Any]) -> dict[str, Any]:
    return {"id": payload["id"], "square": payload["id"] ** 2}
