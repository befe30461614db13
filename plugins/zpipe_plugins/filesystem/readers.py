"""Reads the records of one file for `files`, each with the position at which it ends.

What cannot be read is yielded as a BadRecord. Nothing here raises because of the contents of a file.
"""

from __future__ import annotations

import csv
import io
import json
import tokenize
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zpipe.messages import BadRecord

MAX_RECORD = 64 * 1024 * 1024
"""No line, field or whole file larger than this is read. It is four times the default size limit of a message."""
_RAW_KEPT = 64 * 1024
_NEWLINE = 10

Record = tuple[list[Any], Any]


class _UnreadableError(Exception):
    """The rest of this file cannot be read."""


class _LongLineError(csv.Error):
    """Raised when the csv module asks for a line, and handled like the errors of that module."""


class _FileLines:
    """The lines of a file as bytes, with the number of the current record and the offset of the next one."""

    def __init__(self, handle: io.BufferedReader, name: str) -> None:
        self.handle = handle
        self.name = name
        self.number = 0
        self.offset = 0
        if handle.peek(len(BOM_UTF8)).startswith(BOM_UTF8):
            self.go_to(0, len(BOM_UTF8))

    def go_to(self, number: int, offset: int) -> None:
        self.number = number
        self.offset = max(offset, self.offset)
        self.handle.seek(self.offset)

    def __iter__(self) -> _FileLines:
        return self

    def __next__(self) -> bytes:
        line = self.handle.readline(MAX_RECORD)
        if not line:
            raise StopIteration
        self.offset += len(line)
        if len(line) == MAX_RECORD and line[-1] != _NEWLINE:
            while more := self.handle.readline(MAX_RECORD):
                self.offset += len(more)
                if more[-1] == _NEWLINE:
                    break
            raise _LongLineError(f"a line longer than {MAX_RECORD} bytes")
        return line


Reader = Callable[[_FileLines, int, int], Iterator[Any]]


def read_file(read: Reader, name: str, path: Path, after: list[Any]) -> Iterator[Record]:
    """The records after the position `after`. A position with a fourth entry says that reading has failed there."""
    position = after
    try:
        with path.open("rb") as handle:
            lines = _FileLines(handle, name)
            for payload in read(lines, after[1], after[2]):
                position = [name, lines.number, lines.offset]
                yield position, payload
    except (OSError, _UnreadableError) as error:
        failed = [*position[:3], "unreadable"]
        if failed != after:  # otherwise it became a dead letter before this start
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            yield failed, BadRecord(f"cannot read {name}: {reason}", b"")


def _read_whole(lines: _FileLines, number: int, offset: int) -> Iterator[Any]:
    if number:
        return
    content = lines.handle.read(MAX_RECORD + 1)
    if len(content) > MAX_RECORD:
        raise _UnreadableError(f"larger than {MAX_RECORD} bytes")
    # The offset stays 0, so that a file that grows keeps its position, and with it the id of its message.
    lines.number, lines.offset = 1, 0
    yield {"path": lines.name, "text": _decoded(content, _encoding(lines.name, io.BytesIO(content)))}


def _read_lines(lines: _FileLines, number: int, offset: int) -> Iterator[Any]:
    encoding = _encoding(lines.name, lines.handle)
    lines.go_to(number, offset)
    for line in _numbered(lines):
        if isinstance(line, bytes):
            text = _decoded(line.removesuffix(b"\n").removesuffix(b"\r"), encoding)
            yield {"path": lines.name, "line": lines.number, "text": text}
        else:
            yield line


def _read_ndjson(lines: _FileLines, number: int, offset: int) -> Iterator[Any]:
    lines.go_to(number, offset)
    for line in _numbered(lines):
        if isinstance(line, BadRecord):
            yield line
        elif not line.isspace():
            yield json_value(line, f"{lines.name}, line {lines.number}")


def _numbered(lines: _FileLines) -> Iterator[bytes | BadRecord]:
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except _LongLineError as error:
            lines.number += 1
            yield BadRecord(f"{lines.name}, line {lines.number}: {error}", b"")
        else:
            lines.number += 1
            yield line


def json_value(line: bytes, place: str) -> Any:
    """The value of a line of JSON; a BadRecord that says where it is, if it is none."""
    try:
        value = json.loads(line.decode())
        if b"\\ud" in line.lower():  # half of a surrogate pair can be written in JSON, but in no other encoding
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        return BadRecord(f"{place}: not JSON: {error}", line[:_RAW_KEPT])


def _read_csv(lines: _FileLines, number: int, offset: int) -> Iterator[Any]:
    csv.field_size_limit(MAX_RECORD)
    source = _CsvLines(lines)
    rows = csv.reader(source, strict=True)
    try:
        header = next((row for row in rows if row), [])
    except csv.Error as error:
        raise _UnreadableError(f"its header: {error}") from None
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise _UnreadableError(f"its header has {', '.join(map(repr, twice))} twice")
    lines.go_to(number, offset)
    while True:
        source.taken.clear()
        try:
            row = next(rows)
            problem = f"{len(row)} fields where the header has {len(header)}" if len(row) != len(header) else ""
        except StopIteration:
            return
        except csv.Error as error:
            row, problem = [""], str(error)
        if row:
            lines.number += 1
            raw = b"".join(source.taken)[:_RAW_KEPT]
            place = f"{lines.name}, record {lines.number}"
            yield BadRecord(f"{place}: {problem}", raw) if problem else dict(zip(header, row, strict=True))


class _CsvLines:
    """The lines of a file as text, for the csv module. `taken` has the lines of the current record, which may be several."""

    def __init__(self, lines: _FileLines) -> None:
        self._lines = lines
        self.taken: list[bytes] = []

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.taken.append(line)
        return line.decode("utf-8", "replace")


READERS: dict[str, Reader] = {"file": _read_whole, "lines": _read_lines, "ndjson": _read_ndjson, "csv": _read_csv}


# Text


def _encoding(name: str, handle: io.BufferedReader | io.BytesIO) -> str:
    """The encoding that a Python file declares (PEP 263), and UTF-8 for all other files."""
    if not name.endswith(".py"):
        return "utf-8"
    try:
        return tokenize.detect_encoding(handle.readline)[0]
    except SyntaxError:
        return "utf-8"


def _decoded(content: bytes, encoding: str) -> str:
    if encoding != "utf-8":
        try:
            # Some codecs yield lone surrogates, which a message cannot hold.
            return content.decode(encoding, "replace").encode("utf-8", "replace").decode()
        except (LookupError, ValueError):
            pass
    return content.decode("utf-8", "replace")
