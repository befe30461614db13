"""The one way into and out of CBOR: a hardened reader, and a writer that only emits what the reader takes.

May live here: the closed set of types and the limits on what a peer may send. It knows no frame and no message.

cbor2's defaults let 400 kB of string references take 12 s and 2.7 GB, so every tag but bignums (2, 3) is refused, depth and the
number of values are limited, indefinite lengths, duplicate keys and keys other than text or byte strings are refused
(PROTOCOL.md, "Encoding").
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import chain
from typing import Any, NoReturn

import cbor2

from zpipe.core.wire.value_count import Head, counter
from zpipe.errors import PeerError

MAX_DEPTH = 32
MAX_VALUES = 1_000_000
"""Of one decoded item, counted at every depth. Decoding holds the interpreter for 0.1 to 1.1 µs a value (measured: numbers 0.1,
maps 0.3, arrays 0.4, bignums 1.1), so for a second at most, and these take 90 MiB. The 15 million empty maps that fit into a
message of 16 MiB hold it for 6 to 16 s, and peers give up after 5. An item with fewer bytes than this is not counted at all."""
SMALL_BYTES = 4096
"""A payload up to this size is checked quicker by encoding it again with ormsgpack than by looking at its types: 0.13 and 0.42 µs
for a flat map of 90 bytes, 0.9 and 1.3 for a nested one, but 3.7 and 0.3 for 64 kB (measured)."""


def _head(byte: int) -> Head:
    """By RFC 8949, section 3: three bits are a major type, five are a number or say how many bytes hold it."""
    major, number = byte >> 5, byte & 31
    if number > 27:
        return None  # an indefinite length, or nothing at all
    strings = (2, 3)
    if number < 24:
        return number if major in strings else 0, 0
    size = 1 << (number - 24)
    return (0, size) if major in strings else (size, 0)


has_more_values = counter([_head(byte) for byte in range(256)])

# Every tag cbor2 decodes by itself; others reach tag_hook. Bignums stay: a plain Python int may need them.
_REFUSED_TAGS = (0, 1, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)
Encoded = bytes | memoryview
"""What came from a peer. A large body is not copied out of the transport's memory, only what it is decoded to is."""
_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_PLAIN = _SCALARS | {dict, list, tuple}
_KEYS = frozenset({str, bytes})
_AS_BYTES: Any = {memoryview: lambda encoder, value: encoder.encode(bytes(value))}
"""cbor2 would make an array of numbers of a memoryview."""


def _refuse(*_: Any) -> NoReturn:
    raise ValueError("tag is not part of the protocol")


_LIMITS: dict[str, Any] = {
    "semantic_decoders": dict.fromkeys(_REFUSED_TAGS, _refuse),
    "tag_hook": _refuse,
    "max_depth": MAX_DEPTH,
    "allow_indefinite": False,
    "allow_duplicate_keys": False,
    "strict_hashable_types": True,
}


def read(encoded: Encoded, most_values: int = MAX_VALUES) -> Any:
    """Decodes one item. Trailing bytes are not looked at. Raises PeerError for anything the protocol does not have."""
    if len(encoded) > most_values and has_more_values(encoded, most_values):
        raise PeerError(f"it has more than {most_values} values")
    try:
        return cbor2.loads(encoded, **_LIMITS)
    except (cbor2.CBORError, ValueError, RecursionError, OverflowError, MemoryError, TypeError) as error:
        raise PeerError(f"not the CBOR of the protocol: {error}") from None


def write(value: Any) -> bytes:
    """Encodes a value of the protocol's own making: no check of types."""
    return cbor2.dumps(value)


def write_payloads(
    columns: list[Any], payloads: list[Any], is_surely_plain: Callable[[list[Any]], bool] = lambda payloads: False
) -> bytes:
    """Encodes `columns`, whose payloads come from a plugin. Raises ValueError if `read` would refuse the result.

    is_surely_plain  a check that is quicker where payloads are small, and need not know all that is plain

    cbor2's `encoders` hook, which a memoryview needs, makes encoding four times slower. So only payloads of unusual types are
    encoded with it, and read back.
    """
    try:
        encoded = cbor2.dumps(columns)
        small = len(encoded) <= SMALL_BYTES * len(payloads)
        if not (small and is_surely_plain(payloads)) and not _is_plain(payloads):
            encoded = cbor2.dumps(columns, encoders=_AS_BYTES)
            read(encoded)
    except Exception as error:  # cbor2 runs the payload's own methods, so anything may come out of them
        raise ValueError(f"cannot be sent: {_culprit(payloads) or error}") from None
    if len(encoded) > MAX_VALUES and has_more_values(encoded, MAX_VALUES):
        raise ValueError(f"cannot be sent: it has more than {MAX_VALUES} values, down to the innermost")
    return encoded


def _is_plain(payloads: list[Any]) -> bool:
    """Whether they are of the very types that CBOR has and no deeper than they may be. Level by level in C loops: 0.2 µs for a
    flat map and 0.6 for a nested one, which would take 3 to read back (measured)."""
    level = payloads
    for _ in range(MAX_DEPTH - 1):
        types = set(map(type, level))
        if types <= _SCALARS:
            return True
        maps = (value for value in level if type(value) is dict)
        if not types <= _PLAIN or not set(map(type, chain.from_iterable(maps))) <= _KEYS:
            return False
        level = gc.get_referents(*level)
    return False


def _culprit(payloads: list[Any]) -> str:
    """What in the payloads is not plain CBOR and where, for people; "" if nothing stands out. Only called on a failure."""
    found = (_find_culprit(payload, "", 0) for payload in payloads)
    return next((text for text in found if text), "")


def _find_culprit(value: Any, path: str, depth: int) -> str:
    where = f" at {path}" if path else ""
    if depth > MAX_DEPTH:
        return f"it is nested more than {MAX_DEPTH} deep{where[:60]}"
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str | bytes):
                return f"a map's key is a {type(key).__name__}{where}: allowed is text"
            if text := _find_culprit(item, f"{path}.{key!s}"[:200], depth + 1):
                return text
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if text := _find_culprit(item, f"{path}[{index}]", depth + 1):
                return text
    elif type(value) not in _SCALARS:
        return f"a {type(value).__name__}{where} is not plain CBOR (null, bool, int, float, text, bytes, list, map)"
    return ""
