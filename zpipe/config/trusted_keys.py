"""The file of public keys that `zpipe keys trust` writes: reading it, and its text. Does not belong here: whom a pipeline lets
take part, which its own [hosts] say; a private key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zpipe.config.hosts import read_public_key
from zpipe.config.reading.values import name as read_name

FILE = "trusted.toml"
HEAD = """\
# Public keys by the name of their host: written by `zpipe keys trust` and `zpipe keys drop`, and may be edited.
# An empty list: nobody of that host is let in.
"""


def read(folder: Path) -> dict[str, tuple[str, ...]]:
    """The keys by name; none if there is no such file. Raises ValueError, which names the file."""
    path = folder / FILE
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    try:
        return {read_name(name): _keys(given) for name, given in raw.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def text(keys: Mapping[str, tuple[str, ...]]) -> str:
    lines = [f"{name} = [{', '.join(_quoted(key) for key in of)}]" for name, of in sorted(keys.items())]
    return HEAD + "".join(line + "\n" for line in lines)


def _keys(given: Any) -> tuple[str, ...]:
    return tuple(map(read_public_key, given if isinstance(given, list) else [given]))


def _quoted(key: str) -> str:
    """No character of a key needs an escape."""
    return f'"{key}"'
