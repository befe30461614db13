"""Frames between the daemon and a worker process, on one socket pair.

A frame is the length of its head (4 bytes), the head as CBOR ([value, [length of each body]]), and the bodies as they are, so
that sections pass undecoded. Both ends are on one machine and of one version, so this is no protocol. But what comes from a
process that may be broken is read as strictly as what comes from a peer. Must not live here: what a frame means.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from select import POLLIN, POLLOUT
from typing import Any

from zpipe.core.wire import cbor
from zpipe.errors import PeerError

MOST_HEAD_BYTES, MOST_BODY_BYTES = 1 << 28, 1 << 31
_LENGTH = struct.Struct("!I")


class Pipe:
    """`wait(events)` is called where the socket would block. It returns when trying again makes sense."""

    def __init__(self, end: socket.socket, wait: Callable[[int], None] | None = None) -> None:
        self._socket = end
        self._wait = wait
        end.setblocking(wait is None)

    def send(self, value: Any, bodies: Sequence[bytes] = ()) -> None:
        """Blocks until all is written. Raises OSError if the other end is closed."""
        head = cbor.write([value, list(map(len, bodies))])
        left = memoryview(b"".join((_LENGTH.pack(len(head)), head, *bodies)))
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                self._pause(POLLOUT)

    def receive(self) -> tuple[Any, list[bytes]]:
        """Blocks until a whole frame is there. Raises EOFError or OSError at the end, PeerError if it is no frame."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > MOST_HEAD_BYTES:
            raise PeerError(f"a head of {length} bytes")
        frame = cbor.read(self._exactly(length))
        match frame:
            case [value, list(sizes)] if all(type(size) is int and 0 <= size <= MOST_BODY_BYTES for size in sizes):
                return value, [self._exactly(size) for size in sizes]
        raise PeerError("a frame's head is its value and the lengths of its bodies")

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            try:
                part = self._socket.recv(size)
            except BlockingIOError:
                self._pause(POLLIN)
                continue
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _pause(self, events: int) -> None:
        assert self._wait is not None
        self._wait(events)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
