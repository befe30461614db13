"""Gathers the mistakes of one config, and words key paths and values for people. Does not belong here: deciding what is a
mistake."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from zpipe.config.reading.key_lines import KeyPath
from zpipe.config.reading.variable_expansion import Expanded, replaced
from zpipe.errors import Mistake

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_SHOWN = 60
_UNLIKELY_BY_CHANCE = 4
"""A secret of at least so many characters is hardly ever part of a sentence by chance."""


class MistakeReport:
    """All mistakes found so far in one file, each with its line."""

    def __init__(self, file: str, lines: Mapping[KeyPath, int]) -> None:
        self._file = file
        self._lines = lines
        self._found: list[tuple[KeyPath, Mistake]] = []
        self._secrets: list[tuple[KeyPath, str, str]] = []
        self._text = ""

    def hide(self, secrets: Iterable[tuple[KeyPath, str, str]], text: str) -> None:
        """From now on no mistake shows these values, even where a plugin worded it and quoted what it refuses.

        text  the text of the file. What stands there cannot be a secret
        """
        self._secrets += sorted(secrets, key=lambda secret: -len(secret[1]))
        self._text = text

    def add(self, path: KeyPath, problem: str, *, given: Any = None, nearest: str = "") -> None:
        problem, given = self._without_secrets(path, problem), replaced(given, self._shown_as, path)
        # A list of one may be written as a plain value. Then there is no element to point at, only the key.
        while path and isinstance(path[-1], int) and path not in self._lines:
            path = path[:-1]
        line = next((self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines), 0)
        self._found.append((path, Mistake(self._file, line, dotted(path), given, problem, nearest)))

    def _without_secrets(self, path: KeyPath, text: str) -> str:
        for where, secret, shown in self._secrets:
            length = min(len(path), len(where))
            same_key = path[:length] == where[:length]
            # A short secret may be part of many words. It is replaced only at its own key, and only where it is a whole word.
            # A long one may also be quoted by a mistake at another key, unless the file itself contains it.
            if not same_key and (len(secret) < _UNLIKELY_BY_CHANCE or secret in self._text):
                continue
            edges = ("", "") if len(secret) >= _UNLIKELY_BY_CHANCE else (r"(?<!\w)", r"(?!\w)")
            for form in (secret, repr(secret)[1:-1], quoted(secret)[1:-1]):
                text = re.sub(edges[0] + re.escape(form) + edges[1], shown.replace("\\", r"\\"), text)
        return text

    def _shown_as(self, path: KeyPath, given: Any) -> Any:
        match given:
            case Expanded():
                return given.template if given.secrets else str(given)
            case str():
                return self._without_secrets(path, given)
            case _:
                return given

    def has_mistake_at(self, *path: str | int) -> bool:
        """Whether there is a mistake at `path` or below it. What was read there is then only a default."""
        return any(found[: len(path)] == path for found, _ in self._found)

    @property
    def mistakes(self) -> list[Mistake]:
        """All of them, in the order of the file."""
        return sorted((mistake for _, mistake in self._found), key=lambda mistake: mistake.line)


def dotted(path: KeyPath) -> str:
    """A key path as TOML writes it: stages.parse.input[1]."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part if _BARE_KEY.fullmatch(part) else quoted(part)}"
    return text.removeprefix(".")


def quoted(text: str) -> str:
    escaped = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{escaped}"'


def shown(value: Any) -> str:
    """A value as a config would have it, cut to a readable length."""
    match value:
        case bool():
            return str(value).lower()
        case Expanded() if value.secrets:
            return f"{quoted(value.template)} (its value is not shown)"
        case Expanded():
            return f"{shown(str(value))} (from {value.template})"
        case str():
            return quoted(value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "…")
        case dict():
            return "a table"
        case list():
            return "a list"
        case int() | float():
            return str(value)[:_LONGEST_SHOWN]
        case _:
            return str(value)
