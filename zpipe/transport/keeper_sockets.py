"""The sockets of a program's keeper: a SUB to what the program publishes, and a ROUTER for what it tells its keeper alone.

Must not live here: what a frame means.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import zmq

from zpipe.errors import OperatorError
from zpipe.transport.socket_options import MAX_FRAME_BYTES

_RECONNECT_MS = 10
"""The program on this host binds a moment after its start, and what it publishes before the keeper is connected is lost."""


class KeeperSockets:
    """Used by one thread. Nothing blocks but `poll`."""

    def __init__(self, control: str, dead_letters: str, *topics: bytes) -> None:
        """Connects to the control address, which may not be bound yet, and binds the other. Raises OperatorError."""
        self._context = zmq.Context(1)
        self._sub = self._context.socket(zmq.SUB)
        self._sub.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        for topic in topics:
            self._sub.setsockopt(zmq.SUBSCRIBE, topic)
        self._sub.connect(control)
        self._router = self._context.socket(zmq.ROUTER)
        for socket in (self._sub, self._router):
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        try:
            self._router.bind(dead_letters)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise OperatorError(f"cannot bind {dead_letters}: {error.strerror or error}") from None
        self._poller = zmq.Poller()
        self._poller.register(self._sub, zmq.POLLIN)
        self._poller.register(self._router, zmq.POLLIN)

    def watch_fd(self, fd: int) -> None:
        """Has `poll` wake up when the file descriptor is readable."""
        self._poller.register(fd, zmq.POLLIN)

    def poll(self, timeout_s: float) -> list[int]:
        """Waits until something has come. Returns the descriptors of `watch_fd` that are readable."""
        return [one for one, _ in self._poller.poll(max(0, int(timeout_s * 1000))) if isinstance(one, int)]

    def published(self) -> Iterator[list[bytes]]:
        """[topic, frame] that have come."""
        return self._all(self._sub)

    def told(self) -> Iterator[list[bytes]]:
        """[route, frame] that have come."""
        return self._all(self._router)

    def answer(self, route: bytes, frame: bytes) -> None:
        with suppress(zmq.ZMQError):  # the program has gone
            self._router.send_multipart([route, frame], zmq.NOBLOCK)

    def _all(self, socket: zmq.Socket[bytes]) -> Iterator[list[bytes]]:
        with suppress(zmq.Again):
            while True:
                yield socket.recv_multipart(zmq.NOBLOCK)

    def close(self) -> None:
        self._context.destroy(linger=0)
