"""The second codec of sections: MessagePack, by ormsgpack, for what is plain and nothing else.

May live here: writing and reading it as strictly as `cbor` does. What it refuses to write goes as CBOR. It knows no message.

ormsgpack encodes a small map in 0.1 µs and decodes it in 0.5, cbor2 in 1.3 and 1.4 (measured). msgspec is faster still, but
encodes sets and dates silently. Here the encoder itself refuses what is not plain: it is told to leave such values to a function
(`default`) that it is not given.
"""

from __future__ import annotations

import gc
from functools import cache
from typing import Any

import ormsgpack

from zpipe.core.wire.cbor import MAX_DEPTH, MAX_VALUES, Encoded
from zpipe.core.wire.value_count import Head, counter
from zpipe.errors import PeerError

_PLAIN_ONLY = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_SECTION_DEPTH = 2
"""Containers around a payload: the section and its column."""
_CONTAINERS = frozenset({dict, list})


def _head(byte: int) -> Head:
    if byte < 0xA0 or byte >= 0xE0 or byte in (0xC0, 0xC2, 0xC3):
        return 0, 0
    if byte < 0xC0:
        return byte & 31, 0
    return _LONGER.get(byte)


_LONGER: dict[int, Head] = {
    **{byte: (0, 1 << n) for first in (0xC4, 0xD9) for n, byte in enumerate(range(first, first + 3))},
    **{byte: (1 << n, 0) for first in (0xCC, 0xD0) for n, byte in enumerate(range(first, first + 4))},
    **{0xCA: (4, 0), 0xCB: (8, 0), 0xDC: (2, 0), 0xDD: (4, 0), 0xDE: (2, 0), 0xDF: (4, 0)},
}
"""Bytes and texts, integers, floats, arrays and maps. Extensions are not plain."""

has_more_values = counter([_head(byte) for byte in range(256)])


def write_payloads(columns: list[Any], payloads: list[Any]) -> bytes | None:
    """Encodes `columns`, whose payloads come from a plugin. None if CBOR must be asked: it may take them, and says why if not."""
    try:
        encoded = _pack(columns, payloads, MAX_DEPTH)
    except (TypeError, ValueError):
        return None
    return None if has_more_values(encoded, MAX_VALUES) else encoded


def is_plain(payloads: list[Any]) -> bool:
    """Whether both codecs take the payloads. False says little: CBOR alone takes large integers and tuples."""
    try:
        _pack(payloads, payloads, MAX_DEPTH - _SECTION_DEPTH + 1)
    except (TypeError, ValueError):
        return False
    return not _has_view(payloads)


def _has_view(payloads: list[Any]) -> bool:
    """Whether the payloads hold a memoryview: ormsgpack encodes its bytes, cbor2 would encode numbers. The walk ends at the
    first, since a memoryview refers to its type, and that to a whole module."""
    level: list[Any] = [*filter(gc.is_tracked, payloads)]
    while level:
        if memoryview in set(map(type, level)):
            return True
        level = gc.get_referents(*level)
    return False


def _pack(value: list[Any], payloads: list[Any], max_depth: int) -> bytes:
    """Encodes a value that the payloads are in. Raises TypeError or ValueError if it is not plain, or too deep.

    The encoder itself checks the depth: it has a fixed limit, so the value is put into as many arrays as leave `max_depth`
    of that. This takes 0.02 µs a message, a walk over nested maps 0.35. Flat maps, which the garbage collector does not track,
    need no check (measured).
    """
    if not any(map(gc.is_tracked, payloads)):
        return ormsgpack.packb(value, option=_PLAIN_ONLY)
    around = _deepest() - max_depth
    for _ in range(around):
        value = [value]
    return ormsgpack.packb(value, option=_PLAIN_ONLY)[around:]  # the head of such an array is one byte


@cache
def _deepest() -> int:
    """How many nested containers ormsgpack encodes."""
    value: list[Any] = []
    try:
        while True:
            ormsgpack.packb(value := [value])
    except TypeError:
        return len(ormsgpack.packb(value[0]))


def write(value: Any) -> bytes:
    """Encodes a value of zpipe's own making: no check of types."""
    return ormsgpack.packb(value)


def read(encoded: Encoded) -> Any:
    """Decodes one item, whatever its depth (`is_too_deep`). Raises PeerError for anything else that the protocol forbids."""
    if has_more_values(encoded, MAX_VALUES):
        raise PeerError(f"it has more than {MAX_VALUES} values")
    try:
        return ormsgpack.unpackb(encoded)
    except ValueError as error:
        raise PeerError(f"not the MessagePack of the protocol: {error}") from None


def is_too_deep(payloads: list[Any]) -> bool:
    """Whether a payload that was read is nested deeper than a section may be. ormsgpack reads up to 1024 levels.

    Level by level in C: 0.01 µs a flat map, which the garbage collector need not track, and 0.12 a nested one (measured).
    """
    level: list[Any] = [*filter(gc.is_tracked, payloads)]
    for _ in range(MAX_DEPTH - _SECTION_DEPTH):
        if not level:
            return False
        level = gc.get_referents(*level)
    return not _CONTAINERS.isdisjoint(map(type, level))
