"""Replaces ${VAR}, ${VAR:-default}, ${file:PATH} and ${credential:NAME} in the strings of a config; $${ stands for a plain ${.

A string that was changed becomes an `Expanded`. So "${COUNT:-5}" may be read as a number where one is expected, while a plain
"5" stays a mistake. Does not belong here: anything but the substitution.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from zpipe.config.reading import value_files
from zpipe.config.reading.key_lines import KeyPath

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_FILE = re.compile(r"(file|credential):(?!-)(.+)", re.DOTALL)
"""`${file:-x}` is a variable with a default."""
_TELLING_LINE = 8
"""A line of so many characters, in a secret of several lines, is one by itself. `}` is not."""


class Expanded(str):
    """The result of a substitution, which remembers the string that it was made from.

    secrets  values from the environment and from files, which must not be shown; for each, the text to show in its place
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


def expand(
    value: Any,
    env: Mapping[str, str],
    folder: Path,
    mistake: Callable[[KeyPath, str, Any], None],
    skip: Callable[[KeyPath], bool] = lambda path: False,
) -> Any:
    """`value` with all strings in it expanded, but for those at a path that `skip` names.

    folder   where the paths of files start
    mistake  is called as (path, problem, given) for each string that could not be expanded
    """

    def leaf(path: KeyPath, given: Any) -> Any:
        if not isinstance(given, str) or "${" not in given or skip(path):
            return given
        return _expand_string(given, env, folder, mistake, path)

    return replaced(value, leaf)


def credential_names(value: Any, skip: Callable[[KeyPath], bool]) -> list[str]:
    """The credentials that `expand` would read for this value."""
    found: dict[str, None] = {}
    for path, given in leaves(value):
        for reference in _REFERENCE.finditer(given) if isinstance(given, str) and not skip(path) else ():
            content = _FILE.fullmatch(reference.group(1) or "")
            if content and content[1] == "credential" and value_files.is_credential_name(content[2]):
                found[content[2]] = None
    return list(found)


def plain(value: Any) -> Any:
    """`value` with plain strings in place of `Expanded` ones."""
    return replaced(value, lambda _, given: str(given) if isinstance(given, Expanded) else given)


def secrets(value: Any) -> Iterator[tuple[KeyPath, str, str]]:
    """Every secret in an expanded `value`: (key path, value, what to show in its place)."""
    for path, given in leaves(value):
        if isinstance(given, Expanded):
            yield from ((path, secret, shown) for secret, shown in given.secrets.items())


def _expand_string(
    text: str, env: Mapping[str, str], folder: Path, mistake: Callable[[KeyPath, str, Any], None], path: KeyPath
) -> Any:
    problems = []
    substituted = False
    secrets: dict[str, str] = {}

    def replacement(found: re.Match[str]) -> str:
        nonlocal substituted
        if found.group() == "$${":
            return "${"
        substituted = True
        try:
            value, is_secret = _value_of(found, env, folder)
        except ValueError as problem:
            problems.append(str(problem))
            return ""
        if is_secret:
            # A library that refuses a key or a certificate may quote a single line of it.
            lines = [line for line in value.splitlines() if len(line) >= _TELLING_LINE]
            secrets.update(dict.fromkeys(filter(None, [value, *lines]), found.group()))
        return value

    result = _REFERENCE.sub(replacement, text)
    for problem in problems:
        mistake(path, problem, text)
    if problems:
        return UNSET
    if secrets:
        secrets[result] = text
    return Expanded(result, text, secrets) if substituted else result


def _value_of(found: re.Match[str], env: Mapping[str, str], folder: Path) -> tuple[str, bool]:
    """What a reference stands for, and whether that must not be shown. Raises ValueError with what is wrong with it."""
    text, closed = found.groups()
    if closed and (named := _FILE.fullmatch(text)) and "${" not in text:
        if named[1] == "file":
            return value_files.read_file(named[2], folder), True
        return value_files.read_credential(named[2], env), True
    content = _VARIABLE.fullmatch(text)
    if not closed or content is None or "${" in (content.group(2) or ""):
        raise ValueError(
            f"{found.group()} is not ${{VAR}}, ${{VAR:-default}}, ${{file:PATH}} or ${{credential:NAME}} without another ${{ "
            "in it; write $${ for a plain ${"
        )
    name, default = content.groups()
    value = env.get(name)
    if default is not None and not value:
        return default, False  # as in a shell, a default is also used for an empty variable
    if value is None:
        raise ValueError(f"the environment variable {name} is not set; set it, or give a default: ${{{name}:-…}}")
    return value, True
