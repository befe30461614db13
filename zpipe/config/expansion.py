"""${VAR} and ${VAR:-default} in the strings of a config; $${ stands for a plain ${.

May live here: substitution only. A string it changed is an `Expanded`, so that "${COUNT:-5}" may become a number where
one is expected, while a plain "5" stays a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from zpipe.config.lines import KeyPath

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_CONTENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


class Expanded(str):
    """The result of a substitution, which remembers what it was made from."""

    __slots__ = ("template",)
    template: str

    def __new__(cls, value: str, template: str) -> Expanded:
        made = super().__new__(cls, value)
        made.template = template
        return made


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = _Unset()
"""Stands where a string could not be expanded: the mistake is known, so nothing more is said about the value."""


def expand(value: Any, env: Mapping[str, str], mistake: Callable[[KeyPath, str, Any], None], path: KeyPath = ()) -> Any:
    """`value` with all strings in it expanded; `mistake(path, problem, given)` hears of what could not be."""
    match value:
        case dict():
            return {key: expand(inner, env, mistake, (*path, key)) for key, inner in value.items()}
        case list():
            return [expand(inner, env, mistake, (*path, index)) for index, inner in enumerate(value)]
        case str() if "${" in value:
            return _expand_string(value, env, mistake, path)
        case _:
            return value


def plain(value: Any) -> Any:
    """`value` without any trace of the expansion."""
    match value:
        case dict():
            return {key: plain(inner) for key, inner in value.items()}
        case list():
            return [plain(inner) for inner in value]
        case Expanded():
            return str(value)
        case _:
            return value


def _expand_string(
    text: str, env: Mapping[str, str], mistake: Callable[[KeyPath, str, Any], None], path: KeyPath
) -> Any:
    problems = []
    substituted = False

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
        if default is not None:
            return value or default  # as in a shell, an empty variable counts as unset here
        if value is None:
            problems.append(f"the environment variable {name} is not set; set it, or give a default: ${{{name}:-…}}")
            return ""
        return value

    result = _REFERENCE.sub(replacement, text)
    for problem in problems:
        mistake(path, problem, text)
    if problems:
        return UNSET
    return Expanded(result, text) if substituted else result
