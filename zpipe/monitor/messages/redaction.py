"""Hiding fields that must not be shown, by their names, with a mark in the place of what they hold. Must not live here: how a
message is shown.

A name hides that field wherever it stands: in the payload, in headers, in maps within lists. Hiding too much is a nuisance, but
hiding too little is a leak. `user.email` hides `email` only directly within `user`, or a field that is named `user.email`; a
place in a list may be named (`items.0.price`) or left out. `@id` and `@headers` are the message's own.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from zpipe.messages import Message

MARK = "[redacted]"
ID, HEADERS = "@id", "@headers"

Path = tuple[str | int, ...]
"""From the payload (or "@headers") down; a number is a place in a list."""


class Redaction:
    """`names`: fields or dotted paths; upper and lower case do not matter."""

    def __init__(self, names: list[str]) -> None:
        self._names = [name.casefold().split(".") for name in names]

    def __call__(self, message: Message) -> Message:
        """A copy without what is hidden; the message itself if no names were given."""
        if not self._names:
            return message
        marked, headers = copy(message), message.headers
        marked.payload = self._shown(message.payload, ())
        if headers is not None:
            whole = self._hides((HEADERS,))
            marked.headers = dict.fromkeys(headers, MARK) if whole else self._shown(headers, (HEADERS,))
        if self._hides((ID,)):
            marked.id = MARK
        return marked

    def _shown(self, value: Any, path: Path) -> Any:
        if isinstance(value, list):
            return [self._item(item, (*path, at)) for at, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        shown = {}
        for key, item in value.items():
            # A key with dots is a path in itself, of which any part may be hidden.
            *before, last = (key if isinstance(key, str) else key.decode("utf-8", "replace")).casefold().split(".")
            inner = path
            hidden = False
            for part in before:
                inner = (*inner, part)
                hidden = hidden or self._hides(inner)
            shown[key] = MARK if hidden else self._item(item, (*inner, last))
        return shown

    def _item(self, value: Any, path: Path) -> Any:
        return MARK if self._hides(path) else self._shown(value, path)

    def _hides(self, path: Path) -> bool:
        return any(_ends_with(path, name) for name in self._names)


def _ends_with(path: Path, name: list[str]) -> bool:
    steps = iter(reversed(path))
    for part in reversed(name):
        for step in steps:
            if str(step) == part:
                break
            if not isinstance(step, int):
                return False
        else:
            return False
    return True


def read_names(texts: tuple[str, ...]) -> list[str]:
    """The names in texts such as `email,user.token`. Raises ValueError for a name that has an empty part or cannot be hidden."""
    names = [name.strip() for text in texts for name in text.split(",")]
    for name in names:
        first, *rest = parts = name.split(".")
        if not all(parts):
            raise ValueError(f"{name!r} is no field: allowed are names and dotted paths, such as email,user.token")
        if first.startswith("@") and first != HEADERS and (rest or first != ID):
            raise ValueError(
                f"{name!r} cannot be hidden: of a message's own there are {ID}, {HEADERS} and {HEADERS}.NAME"
            )
    return names
