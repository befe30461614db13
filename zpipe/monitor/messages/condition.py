"""Conditions on messages, as `zpipe tap --where` takes them. May live here: reading one, and whether a message meets it."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zpipe.fixture import to_json
from zpipe.messages import Message
from zpipe.monitor.messages.field import MISSING, OWN, field

_FORM = re.compile(r"\s*([^=!~<>\s]+)\s*(!=|>=|<=|=|~|>|<)\s*(.*)", re.DOTALL)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
FORMS = "FIELD=VALUE, FIELD!=VALUE, FIELD~REGEX, FIELD>VALUE, FIELD>=VALUE, FIELD<VALUE, FIELD<=VALUE"


@dataclass(frozen=True)
class Condition:
    """`value` is what the text says as JSON (a number, true, null), else the text itself; a compiled pattern for ~."""

    path: tuple[str, ...]
    sign: str
    text: str
    value: Any

    def holds(self, message: Message) -> bool:
        """A field that is not there meets only !=; numbers compare with numbers and text with text, as which bytes count."""
        found = field(message, self.path)
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
    form = _FORM.fullmatch(text)
    if form is None:
        raise ValueError(f"{text!r} is no condition: allowed are {FORMS}")
    name, sign, wanted = form.groups()
    path = tuple(name.split("."))
    if path[0].startswith("@") and path[0] not in OWN:
        raise ValueError(f"{text!r}: a message has {', '.join(OWN)}, but no {path[0]}")
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
