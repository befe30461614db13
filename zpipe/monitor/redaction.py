"""What must not be shown. May live here: fields by name, and putting a mark in the place of what they hold.

A name hides that field wherever it stands, in the payload, in headers, in maps within lists: to hide too much is a nuisance,
to hide too little a leak. `user.email` hides `email` only directly within `user`.
"""

from __future__ import annotations

from typing import Any

from zpipe.messages import Message

MARK = "[redacted]"


class Redaction:
    """`names`: fields or dotted paths, case aside."""

    def __init__(self, names: list[str]) -> None:
        self._paths = [tuple(name.casefold().split(".")) for name in names]

    def __call__(self, message: Message) -> Message:
        """A copy without what is hidden; the message itself if nothing is."""
        if not self._paths:
            return message
        headers = self._hide(message.headers, ())
        return Message(
            self._hide(message.payload, ()),
            id=message.id,
            origin=message.origin,
            headers=headers,
            outlet=message.outlet,
            attempt=message.attempt,
        )

    def _hide(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [self._hide(item, path) for item in value]
        if not isinstance(value, dict):
            return value
        hidden = {}
        for key, item in value.items():
            name = key if isinstance(key, str) else key.decode("utf-8", "replace")
            inner = (*path, name.casefold())
            secret = any(inner[-len(one) :] == one for one in self._paths)
            hidden[key] = MARK if secret else self._hide(item, inner)
        return hidden


def read_names(texts: tuple[str, ...]) -> list[str]:
    """From `email,user.token` and repeats of it. Raises ValueError for a name with an empty part."""
    names = [name.strip() for text in texts for name in text.split(",")]
    for name in names:
        if not all(name.split(".")):
            raise ValueError(f"{name!r} is no field: allowed are names and dotted paths, such as email,user.token")
    return names
