"""Replaces ${VAR} and ${VAR:-default} in the strings of a config; $${ stands for a plain ${.

A string that was changed becomes an `Expanded`. So "${COUNT:-5}" may be read as a number where one is expected, while a plain
"5" stays a mistake. Does not belong here: anything but the substitution.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from zpipe.config.key_lines import KeyPath

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_CONTENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


class Expanded(str):
    """The result of a substitution, which remembers the string that it was made from.

    secrets  values from the environment, which must not be shown; for each, the text to show in its place
    """

    def __new__(cls, value: str, template: str, secrets: Mapping[str, str]) -> Expanded:
        return super().__new__(cls, value)

    def __init__(self, value: str, template: str, secrets: Mapping[str, str]) -> None:
        self.template = template
        self.secrets = secrets


UNSET: Final = object()
"""Takes the place of a string that could not be expanded. That mistake is reported already, so readers say no more about it."""


def replaced(value: Any, leaf: Callable[[KeyPath, Any], Any], path: KeyPath = ()) -> Any:
    """`value` with `leaf(path, given)` in the place of everything in it that is neither a table nor a list."""
    match value:
        case dict():
            return {key: replaced(inner, leaf, (*path, key)) for key, inner in value.items()}
        case list():
            return [replaced(inner, leaf, (*path, index)) for index, inner in enumerate(value)]
        case _:
            return leaf(path, value)


def leaves(value: Any) -> list[tuple[KeyPath, Any]]:
    """Everything in `value` that is neither a table nor a list, with its path."""
    found: list[tuple[KeyPath, Any]] = []
    replaced(value, lambda path, given: found.append((path, given)))
    return found


def expand(value: Any, env: Mapping[str, str], mistake: Callable[[KeyPath, str, Any], None]) -> Any:
    """`value` with all strings in it expanded. `mistake(path, problem, given)` is called for each that could not be."""

    def leaf(path: KeyPath, given: Any) -> Any:
        return _expand_string(given, env, mistake, path) if isinstance(given, str) and "${" in given else given

    return replaced(value, leaf)


def plain(value: Any) -> Any:
    """`value` with plain strings in place of `Expanded` ones."""
    return replaced(value, lambda _, given: str(given) if isinstance(given, Expanded) else given)


def secrets(value: Any) -> Iterator[tuple[KeyPath, str, str]]:
    """Every secret in an expanded `value`: (key path, value from the environment, what to show in its place)."""
    for path, given in leaves(value):
        if isinstance(given, Expanded):
            yield from ((path, secret, shown) for secret, shown in given.secrets.items())


def _expand_string(
    text: str, env: Mapping[str, str], mistake: Callable[[KeyPath, str, Any], None], path: KeyPath
) -> Any:
    problems = []
    substituted = False
    secrets: dict[str, str] = {}

    def replacement(found: re.Match[str]) -> str:
        nonlocal substituted
        if found.group() == "$${":
            return "${"
        substituted = True
        content = _CONTENT.fullmatch(found.group(1))
        if not found.group(2) or content is None or "${" in (content.group(2) or ""):
            problems.append(
                f"{found.group()} is not ${{VAR}} or ${{VAR:-default}} without another ${{ in it; "
                "write $${ for a plain ${"
            )
            return ""
        name, default = content.groups()
        value = env.get(name)
        if default is not None and not value:
            return default  # as in a shell, a default is also used for an empty variable
        if value is None:
            problems.append(f"the environment variable {name} is not set; set it, or give a default: ${{{name}:-…}}")
            return ""
        if value:
            secrets[value] = f"${{{name}}}"
        return value

    result = _REFERENCE.sub(replacement, text)
    for problem in problems:
        mistake(path, problem, text)
    if problems:
        return UNSET
    if secrets:
        secrets[result] = text
    return Expanded(result, text, secrets) if substituted else result
