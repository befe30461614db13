"""The sockets of those outside a pipeline who watch its instances and ask something of them.

Subscriptions and requests belong here. Must not live here: what a frame means.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import zmq

from zpipe.transport.sockets import MAX_FRAME_BYTES, RECONNECT_MAX_MS, RECONNECT_MS


class OperatorSockets:
    """One SUB to the control sockets of many instances, and requests to their feedback sockets. Used by one thread.

    Other topics than the given ones are not sent here at all.
    """

    def __init__(self, *topics: bytes) -> None:
        self._context = zmq.Context(1)
        self._sub = self._context.socket(zmq.SUB)
        self._sub.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self._sub.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self._sub.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        for topic in topics:
            self._sub.setsockopt(zmq.SUBSCRIBE, topic)
        self._addresses: set[str] = set()
        self._dealers: dict[str, zmq.Socket[bytes]] = {}

    def connect(self, address: str) -> None:
        """It may not be bound yet. Does nothing the second time."""
        if address not in self._addresses:
            self._addresses.add(address)
            self._sub.connect(address)

    def read(self, timeout_s: float) -> Iterator[list[bytes]]:
        """Waits at most so long for the first frames [topic, frame], then gives all that have come."""
        if not self._sub.poll(max(0, int(timeout_s * 1000))):
            return
        while True:
            try:
                yield self._sub.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return

    def ask(self, address: str, frame: bytes, timeout_s: float) -> bytes | None:
        """Sends one request to a feedback socket. Returns the answer, or None if nobody answers in time. Blocks."""
        dealer = self._context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        try:
            dealer.connect(address)
            dealer.send(frame)
            return dealer.recv() if dealer.poll(int(timeout_s * 1000)) else None
        finally:
            dealer.close()

    def post(self, address: str, frame: bytes) -> bytes | None:
        """Sends a request to a feedback socket, which may not be bound yet. Returns the newest answer to those before. Does not
        block."""
        dealer, answer = self._dealers.get(address), None
        if dealer is None:
            dealer = self._dealers[address] = self._context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.SNDHWM, 4)
            dealer.connect(address)
        with suppress(zmq.Again):
            dealer.send(frame, zmq.NOBLOCK)
        with suppress(zmq.Again):
            while True:
                answer = dealer.recv(zmq.NOBLOCK)
        return answer

    def close(self) -> None:
        self._context.destroy(linger=0)  # one thread has all of its sockets
