"""Naming a field of a message, for conditions on it.

May live here: paths and what they lead to in a message. `user.email` leads into the payload, and into lists by number;
`@id`, `@origin`, `@attempt` and `@headers.…` are the message's own.
"""

from __future__ import annotations

from typing import Any

from zpipe.messages import Message

OWN = ("@id", "@origin", "@attempt", "@headers")


class _Missing:
    """Another than None, which a field may hold."""


MISSING = _Missing()


def field(message: Message, path: tuple[str, ...]) -> Any:
    """What stands there, or MISSING."""
    value: Any = message.payload
    if path[0] in OWN:
        value, path = getattr(message, path[0][1:]), path[1:]
    for name in path:
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isascii() and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return MISSING
    return value
