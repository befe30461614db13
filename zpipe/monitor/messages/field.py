"""Naming a field of a message, for conditions on it.

May live here: paths and what they lead to in a message. `user.email` leads into the payload, and into lists by number; it
also leads to a field that is named so, dot and all. `@id`, `@origin`, `@attempt` and `@headers.…` are the message's own.
"""

from __future__ import annotations

import re
from typing import Any

from zpipe.messages import Message

OWN = ("@id", "@origin", "@attempt", "@headers")


class _Missing:
    """Another than None, which a field may hold."""


MISSING = _Missing()
_PLACE = re.compile("[0-9]{1,9}")


def field(message: Message, path: tuple[str, ...]) -> Any:
    """What stands there, or MISSING."""
    value: Any = message.payload
    if path[0] in OWN:
        value, path = getattr(message, path[0][1:]), path[1:]
    return _at(value, path)


def _at(value: Any, path: tuple[str, ...]) -> Any:
    if not path:
        return value
    if isinstance(value, dict):
        for stop in range(1, len(path) + 1):
            name = ".".join(path[:stop])
            if name in value and (found := _at(value[name], path[stop:])) is not MISSING:
                return found
    elif isinstance(value, list) and _PLACE.fullmatch(path[0]) and int(path[0]) < len(value):
        return _at(value[int(path[0])], path[1:])
    return MISSING
