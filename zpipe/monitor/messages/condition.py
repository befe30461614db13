"""Conditions on messages, as `zpipe tap --where` takes them: reading one, and whether a message meets it. Must not
live here: what is shown of a message.

A condition names a field of the message by a path. `user.email` leads into the payload, and into lists by number; it also leads
to a field whose name is `user.email`, dot included. `@id`, `@origin`, `@attempt` and `@headers.…` are the message's own.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from zpipe.fixture import to_json
from zpipe.messages import Message

OWN_FIELDS = ("@id", "@origin", "@attempt", "@headers")
_CONDITION = re.compile(r"\s*([^=!~<>\s]+)\s*(!=|>=|<=|=|~|>|<)\s*(.*)", re.DOTALL)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
ALLOWED_FORMS = "FIELD=VALUE, FIELD!=VALUE, FIELD~REGEX, FIELD>VALUE, FIELD>=VALUE, FIELD<VALUE, FIELD<=VALUE"
MISSING: Final = object()
"""Not None, because a field may hold None."""
_LIST_INDEX = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class Condition:
    """`value` is what `text` says as JSON (a number, true, null), else the text itself. For `~` it is a compiled pattern."""

    path: tuple[str, ...]
    sign: str
    text: str
    value: Any

    def holds(self, message: Message) -> bool:
        """A missing field meets only `!=`. Numbers compare with numbers, and text with text; bytes count as text."""
        found = field_value(message, self.path)
        if isinstance(found, bytes):
            found = found.decode("utf-8", "replace")
        if self.sign == "!=":
            return not self._equal(found)
        if found is MISSING:
            return False
        if self.sign == "=":
            return self._equal(found)
        if self.sign == "~":
            return self.value.search(found if isinstance(found, str) else json.dumps(to_json(found))) is not None
        if _is_number(found) and _is_number(self.value):
            return _ORDER[self.sign](found, self.value)
        return isinstance(found, str) and _ORDER[self.sign](found, self.text)

    def _equal(self, found: Any) -> bool:
        if isinstance(found, str):
            return found == self.text
        return found == self.value and isinstance(found, bool) == isinstance(self.value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_condition(text: str) -> Condition:
    """Raises ValueError with a sentence that says what is allowed."""
    form = _CONDITION.fullmatch(text)
    if form is None:
        raise ValueError(f"{text!r} is no condition: allowed are {ALLOWED_FORMS}")
    name, sign, wanted = form.groups()
    path = tuple(name.split("."))
    if path[0].startswith("@") and path[0] not in OWN_FIELDS:
        raise ValueError(f"{text!r}: a message has {', '.join(OWN_FIELDS)}, but no {path[0]}")
    if sign == "~":
        try:
            return Condition(path, sign, wanted, re.compile(wanted))
        except re.error as error:
            raise ValueError(f"{text!r}: {wanted!r} is no regular expression: {error}") from None
    if sign in _ORDER and not wanted:
        raise ValueError(
            f"{text!r}: nothing stands after {sign}, so no message would ever meet it; write {name}{sign}VALUE"
        )
    try:
        value = json.loads(wanted)
    except (ValueError, RecursionError):
        value = wanted
    return Condition(path, sign, wanted, value)


# ---- the field that a path leads to


def field_value(message: Message, path: tuple[str, ...]) -> Any:
    """What the field holds, or MISSING."""
    value: Any = message.payload
    if path[0] in OWN_FIELDS:
        value, path = getattr(message, path[0][1:]), path[1:]
    return _value_at(value, path)


def _value_at(value: Any, path: tuple[str, ...]) -> Any:
    if not path:
        return value
    if isinstance(value, dict):
        for stop in range(1, len(path) + 1):
            name = ".".join(path[:stop])
            if name in value and (found := _value_at(value[name], path[stop:])) is not MISSING:
                return found
    elif isinstance(value, list) and _LIST_INDEX.fullmatch(path[0]) and int(path[0]) < len(value):
        return _value_at(value[int(path[0])], path[1:])
    return MISSING
