"""The connections that others have made over tcp: how many there are, and whether what they send ever ends.

libzmq limits neither: it takes any number of connections, and keeps the frames of a message until the last of them has come,
unseen by the process. The kernel tells how many bytes have come by a connection, and libzmq by which connection a message has
come. Must not live here: ending a connection, and saying so.
"""

from __future__ import annotations

import resource
import socket
import struct
from collections import Counter

MIB = 1024 * 1024
MOST = 4096
"""Connections. Each instance of another host takes up to three, and each costs some 30 KiB."""
LOOK_S, LOOK_AGAIN_S = 0.1, 0.05
"""Between two looks while the loop turns, and while a connection is watched, for which the loop is woken."""
LOOK_AT_S = 0.001
"""The first is longer by this for each connection: to ask the kernel about one takes 5 µs."""
MUCH_BYTES = 8 * MIB
"""A connection that brings so much between two looks is watched: does a whole message come of it?"""
UNFINISHED_BYTES = 64 * MIB
"""A connection that brings so much above the credit without one whole message is ended: its sender never means to finish it."""
_RECEIVED = struct.Struct("=Q")
_RECEIVED_AT = 128
"""`tcpi_bytes_received` in the struct tcp_info of Linux."""


def most_connections() -> int:
    """How many connections there may be: half of the descriptors are left to everything else."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if soft == resource.RLIM_INFINITY else min(MOST, soft // 2)


def received_bytes(fd: int) -> int:
    """Bytes that have come by a tcp connection since it was made; 0 if the kernel does not tell."""
    try:
        plug = socket.socket(fileno=fd)
    except OSError:
        return 0
    try:
        info = plug.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED_AT + _RECEIVED.size)
        return int(_RECEIVED.unpack_from(info, _RECEIVED_AT)[0]) if len(info) >= _RECEIVED_AT + _RECEIVED.size else 0
    except OSError:
        return 0
    finally:
        plug.detach()


class AcceptedConnections:
    """By descriptor.

    credit_bytes  how many bytes may be on their way in whole messages
    watched       connections that have brought much, and no whole message since
    """

    def __init__(self, credit_bytes: int) -> None:
        self.watched: set[int] = set()
        self._limit = credit_bytes + UNFINISHED_BYTES
        self._most = most_connections()
        self._from: dict[int, str] = {}
        self._counts: Counter[str] = Counter()
        self._received: dict[int, int] = {}
        self._look_at = 0.0

    def add(self, fd: int, address: str) -> int | None:
        """A connection from the address was accepted. Returns one that has to end, where these are too many: the newest of
        whoever has the most."""
        self.remove(fd)
        self._from[fd] = address
        self._counts[address] += 1
        if len(self._from) <= self._most:
            return None
        [(whose, _)] = self._counts.most_common(1)
        return next(one for one, of in reversed(self._from.items()) if of == whose)

    def remove(self, fd: int) -> str:
        """It has ended. Returns the address; "" if it was not known."""
        self.watched.discard(fd)
        self._received.pop(fd, None)
        address = self._from.pop(fd, "")
        if address:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]
        return address

    def address(self, fd: int) -> str:
        return self._from.get(fd, "")

    def finished(self, fd: int) -> None:
        """A whole message has come by it."""
        if fd in self.watched:
            self.watched.discard(fd)
            self._received[fd] = received_bytes(fd)

    def next_look_s(self, now: float) -> float:
        """In how many seconds a wait has to end for the next look; infinity while nothing is watched."""
        return max(0.0, self._look_at - now) if self.watched else float("inf")

    def unfinished(self, now: float) -> list[int]:
        """Connections that have brought more than may be on its way without one whole message. All sockets must have been read
        since the last call."""
        if now < self._look_at:
            return []
        found = []
        for fd in self._from:
            received = received_bytes(fd)
            more = received - self._received.setdefault(fd, received)
            if fd in self.watched:
                if more > self._limit:
                    found.append(fd)
            elif more > MUCH_BYTES:
                self.watched.add(fd)
        self._look_at = now + (LOOK_AGAIN_S if self.watched else LOOK_S + LOOK_AT_S * len(self._from))
        return found
