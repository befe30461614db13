"""Finds the line of each key in a TOML text, for error messages.

tomllib does not tell lines, and the libraries that do would add 30 ms to the start of each daemon. The scanner is only given
texts that tomllib has accepted. Does not belong here: checking whether a text is valid.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

KeyPath = tuple[str | int, ...]

_SPACE = re.compile(r"(?:[\s,]|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
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
        self._tables: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        self._skip(_SPACE)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_SPACE)

    def _header(self) -> KeyPath:
        line = self._line()
        of_array = self.text.startswith("[[", self.at)
        self.at += 2 if of_array else 1
        path: KeyPath = ()
        for part in self._key():
            path = self._in_last_element((*path, part))
            self.lines.setdefault(path, line)
        self.at += 2 if of_array else 1
        if of_array:
            if isinstance(path[-1], int):
                path = path[:-1]
            index = self._tables.get(path, 0)
            self._tables[path] = index + 1
            path = (*path, index)
        # [a.b] mentions the table a as well, but a header of its own is the better place to point at.
        self.lines[path] = line
        return path

    def _in_last_element(self, path: KeyPath) -> KeyPath:
        count = self._tables.get(path)
        return path if count is None else (*path, count - 1)

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for part in self._key():
            path = (*path, part)
            self.lines.setdefault(path, line)
        self.at += 1  # the equals sign
        self._skip(_BLANK)
        self._value(path)

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._skip(_BLANK)
            if self.text[self.at] in "\"'":
                # tomllib is asked to read it, as it knows the escapes.
                parts.append(tomllib.loads(f"k = {self._take(_STRING)}")["k"])
            else:
                parts.append(self._take(_BARE_KEY))
            self._skip(_BLANK)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def _value(self, path: KeyPath) -> None:
        match self.text[self.at]:
            case "[":
                self.at += 1
                self._elements(path)
            case "{":
                self.at += 1
                self._skip(_SPACE)
                while self.text[self.at] != "}":
                    self._pair(path)
                    self._skip(_SPACE)
                self.at += 1
            case '"' | "'":
                self._skip(_STRING)
            case _:
                self._skip(_BARE_VALUE)

    def _elements(self, path: KeyPath) -> None:
        index = 0
        self._skip(_SPACE)
        while self.text[self.at] != "]":
            self.lines[*path, index] = self._line()
            self._value((*path, index))
            index += 1
            self._skip(_SPACE)
        self.at += 1

    def _line(self) -> int:
        return bisect_right(self._ends, self.at - 1) + 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._take(pattern)

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        assert found is not None, f"tomllib accepted what stands at line {self._line()}, this scanner does not"
        self.at = found.end()
        return found.group()
