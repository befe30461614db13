"""Keys on tcp: pairs of keys, the options by which a socket uses them, and the answers to who may connect (ZeroMQ's ZAP, RFC 27).

libzmq asks one socket of the context about each client that has proved to own its key. That socket is polled by the loop like any
other, so there is no second thread, and what is trusted changes between two turns. Must not live here: files, and which host is
trusted for what.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import zmq
from zmq.utils import z85

from zpipe.transport.connections import plain

INBOX = b"inbox"
"""The domain of inboxes, which let in only hosts that send parcels. Other sockets let in all hosts of the pipeline."""
_ZAP = "inproc://zeromq.zap.01"
_UNKNOWN, _NOT_HERE = 400, 500
"""All that a client is told of a refusal is one of three numbers (RFC 27). The third, 300, would have it wait in vain."""
_CRYPTOGRAPHIC, _MECHANISM = zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC, zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH

SOMEBODY = "somebody"
"""Stands for the address of a connection that had ended before its address was asked for."""
Problem = Literal["unknown key", "key of another", "no keys", "wrong server key", "broken off", "too many", "no end"]
"""Why a connection with keys was not made: the client's key is not known; it is known, and is not one of those that may use this
socket; one end has keys and the other has none; the client expects another key of the server; nobody knows. Or why one was ended:
there were too many of them; a message on it had no end."""


class KeyPair(NamedTuple):
    """A pair of CURVE keys in Z85, 40 characters each."""

    public: str
    secret: str


def new_pair() -> KeyPair:
    """A new pair. Its public key can stand as it is in a config, where `${` begins a variable, and in a shell after an option."""
    while True:
        public, secret = (key.decode() for key in zmq.curve_keypair())
        if "${" not in public and not public.startswith("-"):
            return KeyPair(public, secret)


def pair_of(secret: str) -> KeyPair:
    """The pair of a private key. Raises ValueError if it is no key."""
    try:
        return KeyPair(zmq.curve_public(secret.encode()).decode(), secret)
    except (ValueError, UnicodeEncodeError, zmq.ZMQError):
        raise ValueError("is no private key") from None


@dataclass(frozen=True)
class TrustedKeys:
    """Which hosts may connect here, and to which keys this host connects.

    hosts      the public keys of each host of the pipeline, by its name
    producers  those of them that may send to the inbox
    """

    hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    producers: frozenset[str] = frozenset()

    def owner(self, key: str) -> str:
        """The host that the key is one of; "" if nobody's."""
        return next((host for host, keys in self.hosts.items() if key in keys), "")


@dataclass(frozen=True)
class Refusal:
    """A connection that was not made.

    where    the host or address at the other end, as far as it is known;  socket: the one here, where it is one that is bound
    by_peer  the other end has refused; else it was refused here
    key      the public key that the client has shown, or that was expected of the server; "" if it is not known
    """

    problem: Problem
    where: str
    by_peer: bool
    key: str = ""
    socket: str = ""


def serve(socket: zmq.Socket[bytes], pair: KeyPair, domain: bytes) -> None:
    """Addresses that the socket binds from now on take only clients with keys."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode())
    socket.setsockopt(zmq.ZAP_DOMAIN, domain)


def expect(socket: zmq.Socket[bytes], pair: KeyPair, server_key: str) -> None:
    """Servers to which the socket connects from now on have to own that key."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode())
    socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode())


def problem_at_client(event: int, value: int) -> Problem:
    """What an event of a failed handshake says at the end that has connected."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return "key of another" if value == _NOT_HERE else "unknown key"
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return "no keys" if value == _MECHANISM else "broken off"
    return "wrong server key"  # a server that cannot read the first frame closes the connection without a word


def problem_at_server(event: int, value: int) -> Problem | None:
    """What such an event says at the end that was connected to. None: the ZAP answer has said more already."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return None
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == _CRYPTOGRAPHIC:
        return "wrong server key"
    return "no keys" if value == _MECHANISM else "broken off"


class ZapAnswers:
    """The socket by which libzmq asks, and the answers."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], trusted: TrustedKeys) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(_ZAP)
        self._trusted = trusted
        self._addresses: dict[str, set[str]] = {}

    @property
    def trusted(self) -> TrustedKeys:
        return self._trusted

    def trust(self, trusted: TrustedKeys) -> None:
        """Trusts these keys from now on. Connections that stand are not ended."""
        self._trusted = trusted

    def answer(self) -> Iterator[Refusal]:
        """Answers all questions that have come. Yields the refusals."""
        while True:
            try:
                route, _, version, number, domain, address, _, mechanism, *shown = self.socket.recv_multipart(
                    zmq.NOBLOCK
                )
            except (zmq.Again, ValueError):
                return
            key = z85.encode(shown[0]).decode() if mechanism == b"CURVE" and len(shown[0]) == 32 else ""
            where = plain(address.decode("ascii", "replace"))
            owner = self._trusted.owner(key)
            status = 200
            if not owner:
                status = _UNKNOWN
            elif domain.endswith(INBOX) and owner not in self._trusted.producers:
                status = _NOT_HERE
            else:
                self._addresses.setdefault(key, set()).add(where)
            text = {200: b"OK", _UNKNOWN: b"unknown key", _NOT_HERE: b"key of another"}[status]
            user = key.encode() if status == 200 else b""
            with suppress(zmq.Again):
                self.socket.send_multipart([route, b"", version, number, b"%d" % status, text, user, b""], zmq.NOBLOCK)
            if status != 200:
                problem: Problem = "key of another" if status == _NOT_HERE else "unknown key"
                yield Refusal(problem, owner or where, False, key, domain.decode("ascii", "replace"))

    def addresses_of(self, keys: set[str]) -> set[str]:
        """The addresses from which these keys were let in, which are forgotten."""
        return set().union(*(self._addresses.pop(key, set()) for key in keys))
