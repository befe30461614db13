"""A pipeline's config as text, made of what a test says, so that it is read and checked as any config. Must not live here: what a
key means."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any


def table(name: str, keys: Mapping[str, Any]) -> str:
    """A TOML table. Keys that are None are left out."""
    lines = [f"{json.dumps(key)} = {value_of(value)}" for key, value in keys.items() if value is not None]
    return "\n".join([f"[{name}]", *lines, ""])


def value_of(value: Any) -> str:
    """One value. Raises TypeError for what TOML does not have."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Enum):
        value = value.value if isinstance(value.value, str) else value.name
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        # ${ would be the beginning of a variable. JSON and TOML have the same escapes, but for DEL.
        return json.dumps(str(value).replace("${", "$${")).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(key)} = {value_of(one)}" for key, one in value.items() if one is not None)
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(value_of, value)) + "]"
    raise TypeError(f"an option cannot be a {type(value).__name__}: {value!r}")
