"""The sockets of those outside a pipeline who watch its instances and ask something of them.

Subscriptions and requests belong here. Must not live here: what a frame means.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress

import zmq

from zpipe.transport import curve, socket_options
from zpipe.transport.curve import KeyPair, TrustedKeys
from zpipe.transport.socket_options import MAX_FRAME_BYTES, RECONNECT_MAX_MS, RECONNECT_MS

_FAILED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_FAILED |= zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_SEEN = _FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED
_EVENT = struct.Struct("=hi")


class OperatorSockets:
    """One SUB to the control sockets of many instances, and requests to their feedback sockets. Used by one thread.

    Other topics than the given ones are not sent here at all.

    pair     the keys of this host, if there are any;  trusted: those of the hosts that are connected to
    refused  by address: why the last try to connect to it has failed
    """

    def __init__(self, *topics: bytes, pair: KeyPair | None = None, trusted: TrustedKeys | None = None) -> None:
        self._context = zmq.Context(1)
        self._pair = pair
        self._trusted = trusted or TrustedKeys()
        self._sub = self._make_sub(topics)
        # Once a socket expects keys it does so of whatever it connects to from then on: those of this host have another.
        self._keyed_sub = self._make_sub(topics)
        self._monitor = self._keyed_sub.get_monitor_socket(_SEEN)
        self._poller = zmq.Poller()
        for sub in (self._sub, self._keyed_sub):
            self._poller.register(sub, zmq.POLLIN)
        self._addresses: set[str] = set()
        self._dealers: dict[str, zmq.Socket[bytes]] = {}
        self._tries: dict[str, int] = {}
        self.refused: dict[str, curve.Problem] = {}

    def _make_sub(self, topics: Sequence[bytes]) -> zmq.Socket[bytes]:
        sub = self._context.socket(zmq.SUB)
        sub.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        sub.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        sub.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        for topic in topics:
            sub.setsockopt(zmq.SUBSCRIBE, topic)
        return sub

    def connect(self, address: str, host: str = "") -> None:
        """It may not be bound yet. Does nothing the second time, unless the first has been refused.

        host  whose key is expected there; "": it is an address of this host
        """
        self._read_events()
        if address not in self._addresses:
            self._addresses.add(address)
            sub = self._keyed_sub if self._pair is not None and host else self._sub
            if self._expect(sub, address, host):
                socket_options.connect(sub, address)

    def _expect(self, socket: zmq.Socket[bytes], address: str, host: str) -> bool:
        """False: no key of the host is trusted, so it is not to be connected to."""
        if self._pair is None or not host:
            return True
        keys = self._trusted.hosts.get(host, ())
        if keys:
            curve.expect(socket, self._pair, keys[self._tries.get(address, 0) % len(keys)])
        return bool(keys)

    def _read_events(self) -> None:
        """Has an address whose handshake has failed connected to anew, with the next key of its host."""
        while self._monitor.poll(0):
            encoded, where = self._monitor.recv_multipart()
            event, value = _EVENT.unpack(encoded)
            address = where.decode()
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.refused.pop(address, None)
            elif address in self._addresses and self._pair is not None:
                self.refused[address] = curve.problem_at_client(event, value)
                self._tries[address] = self._tries.get(address, 0) + 1
                self._addresses.discard(address)
                with suppress(zmq.ZMQError):  # libzmq has given it up already
                    self._keyed_sub.disconnect(address)

    def read(self, timeout_s: float) -> Iterator[list[bytes]]:
        """Waits at most so long for the first frames [topic, frame], then gives all that have come."""
        for sub, _ in self._poller.poll(max(0, int(timeout_s * 1000))):
            with suppress(zmq.Again):
                while True:
                    yield sub.recv_multipart(zmq.NOBLOCK)

    def ask(self, address: str, frame: bytes, timeout_s: float, host: str = "") -> bytes | None:
        """Sends one request to a feedback socket. Returns the answer, or None if nobody answers in time. Blocks."""
        dealer = self._context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        monitor = dealer.get_monitor_socket(_SEEN)
        try:
            if not self._expect(dealer, address, host):
                return None
            socket_options.connect(dealer, address)
            dealer.send(frame)
            if dealer.poll(int(timeout_s * 1000)):
                return dealer.recv()
            self._note_failed(monitor, address)
            return None
        finally:
            dealer.disable_monitor()
            monitor.close()
            dealer.close()

    def _note_failed(self, monitor: zmq.Socket[bytes], address: str) -> None:
        while monitor.poll(0):
            event, value = _EVENT.unpack(monitor.recv_multipart()[0])
            if event & _FAILED and self._pair is not None:
                self.refused[address] = curve.problem_at_client(event, value)
                self._tries[address] = self._tries.get(address, 0) + 1

    def post(self, address: str, frame: bytes, host: str = "") -> bytes | None:
        """Sends a request to a feedback socket, which may not be bound yet. Returns the newest answer to those before. Does not
        block."""
        dealer, answer = self._dealers.get(address), None
        if dealer is None:
            dealer = self._dealers[address] = self._context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.SNDHWM, 4)
            if self._expect(dealer, address, host):
                socket_options.connect(dealer, address)
        with suppress(zmq.Again):
            dealer.send(frame, zmq.NOBLOCK)
        with suppress(zmq.Again):
            while True:
                answer = dealer.recv(zmq.NOBLOCK)
        return answer

    def close(self) -> None:
        self._context.destroy(linger=0)  # one thread has all of its sockets
