"""The sockets of commands that watch a pipeline's instances and ask something of them.

Subscriptions and requests belong here. Must not live here: what a frame means.
"""

from __future__ import annotations

import socket as system_socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import zmq

from zpipe.transport import curve, socket_options
from zpipe.transport.connections import plain
from zpipe.transport.curve import KeyPair, TrustedKeys
from zpipe.transport.socket_options import MAX_FRAME_BYTES, RECONNECT_MAX_MS, RECONNECT_MS

_FAILED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_FAILED |= zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_SEEN = _FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED
_EVENT = struct.Struct("=hi")


class _Line:
    """A DEALER for requests to one feedback socket, and what libzmq says of its handshakes."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.dealer = context.socket(zmq.DEALER)
        self.dealer.setsockopt(zmq.LINGER, 0)
        self.dealer.setsockopt(zmq.SNDHWM, 4)
        self.monitor = self.dealer.get_monitor_socket(_SEEN)
        self.poller = zmq.Poller()
        for socket in (self.dealer, self.monitor):
            self.poller.register(socket, zmq.POLLIN)

    def close(self) -> None:
        self.dealer.disable_monitor()
        self.monitor.close()
        self.dealer.close()


class OperatorSockets:
    """A SUB to the control sockets of many instances (a second for those with keys), and requests to their feedback sockets. Used
    by one thread. Only the given topics are sent here.

    pair     the keys of this host, if there are any;  trusted: those of the hosts that are connected to
    refused  by address: why the last try to connect to it has failed
    """

    def __init__(self, *topics: bytes, pair: KeyPair | None = None, trusted: TrustedKeys | None = None) -> None:
        self._context = zmq.Context(1)
        self._pair = pair
        self._trusted = trusted or TrustedKeys()
        self._sub = self._make_sub(topics)
        # Once a socket expects keys it does so of whatever it connects to later. So addresses of this host have another socket.
        self._keyed_sub = self._make_sub(topics)
        self._monitor = self._keyed_sub.get_monitor_socket(_SEEN)
        self._poller = zmq.Poller()
        for sub in (self._sub, self._keyed_sub):
            self._poller.register(sub, zmq.POLLIN)
        self._addresses: set[str] = set()
        self._dealers: dict[str, _Line] = {}
        self._tries: dict[str, int] = {}
        self.refused: dict[str, curve.Problem] = {}

    @property
    def public_key(self) -> str:
        """The public key of this host; "" if it has none."""
        return self._pair.public if self._pair is not None else ""

    def _make_sub(self, topics: Sequence[bytes]) -> zmq.Socket[bytes]:
        sub = self._context.socket(zmq.SUB)
        sub.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        sub.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        sub.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        for topic in topics:
            sub.setsockopt(zmq.SUBSCRIBE, topic)
        return sub

    def connect(self, address: str, host: str = "") -> None:
        """Subscribes at an address, which may not be bound yet. Does nothing the second time, unless the first was refused.

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
        """Gives up addresses whose handshake has failed, so that the next `connect` tries the next key of their host."""
        while self._monitor.poll(0):
            encoded, where = self._monitor.recv_multipart()
            event, value = _EVENT.unpack(encoded)
            address = self._address_of(where.decode())
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.refused.pop(address, None)
            elif address in self._addresses and self._pair is not None:
                self.refused[address] = curve.problem_at_client(event, value)
                self._tries[address] = self._tries.get(address, 0) + 1
                self._addresses.discard(address)
                with suppress(zmq.ZMQError):  # libzmq has given it up already
                    self._keyed_sub.disconnect(address)

    def _address_of(self, endpoint: str) -> str:
        """The address of `connect` that an endpoint stands for: for a name libzmq may tell the IP address that it has found."""
        if endpoint in self._addresses:
            return endpoint
        ip, port = _host_and_port(endpoint)
        same_port = [one for one in self._addresses if _host_and_port(one)[1] == port]
        return next((one for one in same_port if ip in _resolved(_host_and_port(one)[0])), endpoint)

    def read(self, timeout_s: float) -> Iterator[list[bytes]]:
        """Waits at most so long for the first frames [topic, frame], then gives all that have come."""
        for sub, _ in self._poller.poll(max(0, int(timeout_s * 1000))):
            with suppress(zmq.Again):
                while True:
                    yield sub.recv_multipart(zmq.NOBLOCK)

    def ask(self, address: str, frame: bytes, timeout_s: float, host: str = "") -> bytes | None:
        """Sends one request to a feedback socket. Returns the answer, or None if nobody answers in time. Blocks."""
        deadline = time.monotonic() + timeout_s
        keys = len(self._trusted.hosts.get(host, ())) if self._pair is not None and host else 1
        for keys_left in reversed(range(keys)):
            line = self._dealer(address, host)
            try:
                line.dealer.send(frame)
                if self._answers(line, address, deadline, keys_left):
                    answer: bytes = line.dealer.recv()
                    return answer
            finally:
                line.close()
        return None

    def _answers(self, line: _Line, address: str, deadline: float, keys_left: int) -> bool:
        """Waits for the answer. False if none comes, or if the host's next key should be tried, since it may be changing keys."""
        while (left_s := deadline - time.monotonic()) > 0:
            if line.dealer in dict(line.poller.poll(int(left_s * 1000) + 1)):
                self.refused.pop(address, None)
                return True
            if self._has_failed(line, address) and keys_left and self.refused[address] == "wrong server key":
                return False
        self._has_failed(line, address)
        return False

    def post(self, address: str, frame: bytes, host: str = "") -> bytes | None:
        """Sends a request to a feedback socket, which may not be bound yet. Returns the newest answer to those before. Does not
        block."""
        line, answer = self._dealers.get(address), None
        if line is not None and self._has_failed(line, address):
            self._dealers.pop(address).close()
            line = None
        if line is None:
            line = self._dealers[address] = self._dealer(address, host)
        with suppress(zmq.Again):
            line.dealer.send(frame, zmq.NOBLOCK)
        with suppress(zmq.Again):
            while True:
                answer = line.dealer.recv(zmq.NOBLOCK)
        return answer

    def _dealer(self, address: str, host: str) -> _Line:
        line = _Line(self._context)
        if self._expect(line.dealer, address, host):
            socket_options.connect(line.dealer, address)
        return line

    def _has_failed(self, line: _Line, address: str) -> bool:
        """Whether the handshake has failed since the last call. The next line expects the next key of its host."""
        failed = False
        while line.monitor.poll(0):
            event, value = _EVENT.unpack(line.monitor.recv_multipart()[0])
            if event & _FAILED and self._pair is not None:
                self.refused[address] = curve.problem_at_client(event, value)
                failed = True
        self._tries[address] = self._tries.get(address, 0) + failed
        return failed

    def trust(self, trusted: TrustedKeys) -> None:
        """These keys are expected from now on, of connections that are made from now on."""
        if trusted.hosts != self._trusted.hosts:
            self._trusted = trusted
            while self._dealers:
                self._dealers.popitem()[1].close()

    def close(self) -> None:
        self._context.destroy(linger=0)  # one thread has all of its sockets


def _host_and_port(endpoint: str) -> tuple[str, str]:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return plain(host.strip("[]")), port


def _resolved(name: str) -> set[str]:
    try:
        return {plain(str(where[0])) for *_, where in system_socket.getaddrinfo(name, None)}
    except OSError:
        return set()
