"""The name of a file or an object that holds a batch: after the ids of its first and last message, so that the same batch has
the same name whenever it is delivered."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

CHARACTERS = 60
"""Of an id, at most: an id may be long, and the names of files have 255 bytes."""


def batch_name(ids: Sequence[str]) -> str:
    """`FIRST--LAST.CHECKSUM`, in which all that is no letter or digit is a hyphen. The checksum is that of all ids."""
    first, last = (
        "".join(c if (c.isascii() and c.isalnum()) or c in "-_." else "-" for c in id)[:CHARACTERS]
        for id in (ids[0], ids[-1])
    )
    return f"{first.lstrip('._-')}--{last}.{zlib.crc32(' '.join(ids).encode()):08x}"
