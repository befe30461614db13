"""Finds the line of each key in a TOML text, for error messages.

tomllib does not tell lines, and the libraries that do would add 30 ms to the start of each daemon. The scanner is only given
texts that tomllib has accepted. Does not belong here: checking whether a text is valid.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator
from itertools import count

KeyPath = tuple[str | int, ...]

_SPACE = re.compile(r"(?:[\s,]|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_DOT = re.compile(r"[ \t]*\.?")
_BRACKETS = re.compile(r"\[\[?")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE = re.compile(r"[^,\]}#\n]*")


def key_lines(text: str) -> dict[KeyPath, int]:
    """The 1-based line of every key, table and array element of a valid TOML text."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self._ends = [m.start() for m in re.finditer("\n", text)]
        self._tables: dict[KeyPath, int] = {}  # the last index of each array of tables

    def document(self) -> None:
        table: KeyPath = ()
        while self._next() is not None:
            table = self._header() if self.text[self.at] == "[" else self._pair(table)

    def _header(self) -> KeyPath:
        line, brackets = self._line(), self._take(_BRACKETS)
        path: KeyPath = ()
        for part in self._key():
            path = (*path, part)
            if path in self._tables:  # it means the last table of that array
                path = (*path, self._tables[path])
            self.lines.setdefault(path, line)
        self.at += len(brackets)
        if brackets == "[[":
            path = path[:-1] if isinstance(path[-1], int) else path
            self._tables[path] = self._tables.get(path, -1) + 1
            path = (*path, self._tables[path])
        # [a.b] mentions the table a as well, but a header of its own is the better place to point at.
        self.lines[path] = line
        return path

    def _pair(self, table: KeyPath) -> KeyPath:
        """Returns the table, which goes on."""
        line, path = self._line(), table
        for part in self._key():
            path = (*path, part)
            self.lines.setdefault(path, line)
        self.at += 1  # the equals sign
        self._take(_BLANK)
        self._value(path)
        return table

    def _key(self) -> Iterator[str]:
        more = True
        while more:
            self._take(_BLANK)
            quoted = self.text[self.at] in "\"'"
            # tomllib is asked to read what is quoted, as it knows the escapes.
            yield tomllib.loads(f"k = {self._take(_STRING)}")["k"] if quoted else self._take(_BARE_KEY)
            more = self._take(_DOT).endswith(".")

    def _value(self, path: KeyPath) -> None:
        match self.text[self.at]:
            case "[":
                self.at += 1
                for index in count():
                    if self._next() == "]":
                        break
                    self.lines[*path, index] = self._line()
                    self._value((*path, index))
                self.at += 1
            case "{":
                self.at += 1
                while self._next() != "}":
                    self._pair(path)
                self.at += 1
            case '"' | "'":
                self._take(_STRING)
            case _:
                self._take(_BARE_VALUE)

    def _line(self) -> int:
        return bisect_right(self._ends, self.at - 1) + 1

    def _next(self) -> str | None:
        """The next character that is no space, comma or part of a comment; None at the end."""
        self._take(_SPACE)
        return self.text[self.at] if self.at < len(self.text) else None

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        assert found is not None, f"tomllib accepted what stands at line {self._line()}, this scanner does not"
        self.at = found.end()
        return found.group()
