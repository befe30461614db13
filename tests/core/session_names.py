"""Names of sessions, and secrets, that tests can read."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from zpipe.core.wire import frames

SECRET = b"the same secret!"


def named(name: str) -> bytes:
    return name.encode().ljust(frames.SECRET_BYTES, b".")


def numbered() -> Callable[[int], bytes]:
    """In the place of random bytes: 1, 2, 3, …"""
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size)
