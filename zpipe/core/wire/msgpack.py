"""The second codec of sections: MessagePack, by ormsgpack, for what is plain and nothing else.

May live here: writing and reading it as strictly as `cbor` does. What it refuses to write goes as CBOR. It knows no message.

ormsgpack encodes a small map in 0.1 µs and decodes it in 0.5, cbor2 in 1.3 and 1.4 (measured). msgspec is faster still, but
encodes sets and dates silently. Here the encoder itself refuses what is not plain: it is told to pass all that on, to nobody.
"""

from __future__ import annotations

import gc
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
        encoded = ormsgpack.packb(columns, option=_PLAIN_ONLY)
    except (TypeError, ValueError):
        return None
    return None if has_more_values(encoded, MAX_VALUES) or is_too_deep(payloads) else encoded


def is_plain(payloads: list[Any]) -> bool:
    """Whether both codecs take them. Some that only CBOR takes are plain, too: large integers, tuples."""
    try:
        ormsgpack.packb(payloads, option=_PLAIN_ONLY)
    except (TypeError, ValueError):
        return False
    return not is_too_deep(payloads)


def read(encoded: Encoded) -> Any:
    """Decodes one item but for its depth. Raises PeerError for anything the protocol does not have."""
    if has_more_values(encoded, MAX_VALUES):
        raise PeerError(f"it has more than {MAX_VALUES} values")
    try:
        return ormsgpack.unpackb(encoded)
    except ValueError as error:
        raise PeerError(f"not the MessagePack of the protocol: {error}") from None


def is_too_deep(payloads: list[Any]) -> bool:
    """Whether one of them has more containers in each other than a section may have. ormsgpack itself stops at 1,024. Also true
    if there is a memoryview among them: what that refers to, its type with all of its module, is no payload.

    Level by level in C: 0.01 µs a flat map, which the garbage collector need not track, and 0.2 a nested one (measured).
    """
    level: list[Any] = [*filter(gc.is_tracked, payloads)]
    for _ in range(MAX_DEPTH - _SECTION_DEPTH):
        if not level:
            return False
        if memoryview in set(map(type, level)):
            return True
        level = gc.get_referents(*level)
    return not _CONTAINERS.isdisjoint(map(type, level))
