"""JMESPath expressions (https://jmespath.org) in the options of a plugin: checked, compiled, and evaluated for payloads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from zpipe import Reject
from zpipe_plugins.extras import require

Expression = Callable[[Any], Any]
"""Gives what the expression finds in a payload. Raises Reject if it cannot be evaluated for it."""


def problems_of(plugin: str, expressions: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is wrong with them, by the option that each is in. `plugin`: the name of the extra."""
    require(plugin, "jmespath")
    import jmespath.exceptions

    for option, text in expressions.items():
        try:
            jmespath.compile(text)
        except jmespath.exceptions.JMESPathError as error:
            reason = " ".join(str(error).split())
            yield option, f"{text!r} is no JMESPath expression: {reason}"


def compiled(text: str) -> Expression:
    import jmespath.exceptions

    search = jmespath.compile(text).search
    errors = (jmespath.exceptions.JMESPathError, TypeError, ValueError)

    def evaluate(payload: Any) -> Any:
        try:
            return search(payload)
        except errors as error:
            raise Reject(f"{text!r} cannot be evaluated: {' '.join(str(error).split())}") from None

    return evaluate


def is_true(value: Any) -> bool:
    """As JMESPath has it: null, false, and empty texts, lists and maps are false. A zero is true."""
    return not (value is None or value is False or value in ("", [], {}))
