"""What a program of `exec` reads and writes, as bytes: ndjson, plain lines, or a sequence of CBOR items (RFC 8742).

Does not belong here: what an item means, and any process.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import cbor2

from zpipe_plugins.jsontext import json_text

MOST_BYTES = 64 << 20
"""Of one item. A program that never ends a line must not fill the memory of the stage."""
_SHOWN = 500


class Unreadable(NamedTuple):
    """In place of an item that cannot be read. `ends`: what comes after it cannot be read either."""

    raw: bytes
    why: str
    ends: bool = False

    def __str__(self) -> str:
        shown = self.raw[:_SHOWN].decode("utf-8", "backslashreplace").rstrip("\n")
        return f"wrote what cannot be read: {shown!r}{'…' if len(self.raw) > _SHOWN else ''} ({self.why})"


Cut = Callable[[bytearray, bool], list[Any]]
"""Takes whole items out of the bytes that have come. The flag says that no more will come."""


class Format(NamedTuple):
    """write: the bytes of one item; raises ValueError if it has none.  cut: see `Cut`."""

    write: Callable[[Any], bytes]
    cut: Cut


def _write_json(value: Any) -> bytes:
    return json_text(value).encode("utf-8", "surrogatepass") + b"\n"


def _write_line(value: Any) -> bytes:
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes):
        raise ValueError(f'format "lines" takes payloads that are text, not a {type(value).__name__}')
    if b"\n" in value:
        raise ValueError('format "lines" takes payloads of one line, and this one has several')
    return value + b"\n"


def _write_cbor(value: Any) -> bytes:
    return cbor2.dumps(value)


def _lines(buffer: bytearray, over: bool) -> list[Any]:
    """Whole lines, without their ends, and Unreadable for one that is too long. The last line of a program may lack its end."""
    end = len(buffer) if over else buffer.rfind(b"\n") + 1
    lines: list[Any] = bytes(buffer[:end]).split(b"\n") if end else []
    del buffer[:end]
    if lines and not lines[-1]:
        lines.pop()
    if len(buffer) > MOST_BYTES:
        lines.append(Unreadable(bytes(buffer[:_SHOWN]), f"a line of more than {MOST_BYTES} bytes", ends=True))
        buffer.clear()
    return lines


_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # it is there, and left out by typeshed


def _cut_json(buffer: bytearray, over: bool) -> list[Any]:
    lines = _lines(buffer, over)
    items: list[Any] = []
    for line in lines:
        if type(line) is Unreadable:
            items.append(line)
            continue
        try:  # `json.loads` does the same with twice the work around it
            text = line.decode()
            value, end = _scan(text, 0)
            items.append(value if end == len(text) else json.loads(text))
        except StopIteration:
            items.append(_json(line))  # not JSON, or it begins with spaces
        except (ValueError, RecursionError) as error:
            items.append(Unreadable(line, f"no JSON: {error}"))
    return items


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return Unreadable(line, f"no JSON: {error}")


def _cut_lines(buffer: bytearray, over: bool) -> list[Any]:
    return list(map(_text, _lines(buffer, over)))


def _text(line: Any) -> Any:
    if type(line) is Unreadable:
        return line
    try:
        return line.decode()
    except ValueError as error:
        return Unreadable(line, f"no UTF-8: {error}")


def _cut_cbor(buffer: bytearray, over: bool) -> list[Any]:
    """An item of which only a part has come is read again once there is more."""
    items: list[Any] = []
    stream = io.BytesIO(buffer)
    read = 0
    while read < len(buffer):
        try:
            # Without reading ahead, so that the stream stands at the next item afterwards.
            items.append(cbor2.CBORDecoder(stream, read_size=1).decode())
        except cbor2.CBORDecodeEOF:
            if over or len(buffer) - read > MOST_BYTES:
                items.append(Unreadable(bytes(buffer[read:]), "the end of a CBOR item is missing", ends=True))
                read = len(buffer)
            break
        except (ValueError, cbor2.CBORDecodeError) as error:
            items.append(Unreadable(bytes(buffer[read : read + _SHOWN]), f"no CBOR: {error}", ends=True))
            read = len(buffer)
            break
        read = stream.tell()
    del buffer[:read]
    return items


FORMATS = {
    "ndjson": Format(_write_json, _cut_json),
    "lines": Format(_write_line, _cut_lines),
    "cbor": Format(_write_cbor, _cut_cbor),
}
