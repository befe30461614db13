"""The ZeroMQ sockets of one instance: what is bound, what is connected, with which options and why.

Sockets belong here, their options, polling and moving frames. Must not live here: decoding a frame, or a decision about one.
Everything here is used by one thread at a time: the one that drives the loop, or a source's that takes a turn.

The options follow measured facts. Without IMMEDIATE, or with a reconnect, a data PUSH delivers stale parcels to the next
incarnation. With a LINGER, a close waits for a dead peer. Without heartbeats, a stopped host is never noticed.
"""

from __future__ import annotations

import errno
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import zmq
import zmq.backend

from zpipe.core.wire.peer_address import ShownKey
from zpipe.errors import OperatorError
from zpipe.transport import curve, socket_options
from zpipe.transport.accepted import AcceptedConnections
from zpipe.transport.arrival import Arrival, What
from zpipe.transport.connections import bound_to, connected_from, connection_of, shut_down
from zpipe.transport.curve import SOMEBODY, KeyPair, Refusal, TrustedKeys, ZapAnswers
from zpipe.transport.socket_options import (
    MAX_SUBSCRIPTION_BYTES,
    SUBSCRIPTIONS,
    connect,
    make_socket,
)
from zpipe.transport.upstream_line import UpstreamLine

REFUSED_S = 1.0
"""libzmq does not connect again to a peer that refused this host's key. Zpipe does so after this: it may be trusted by then."""
TURN = 64
"""Messages read from one socket before the others have their turn."""
MOST_FRAMES = 3
"""So many frames of a message are passed on: one more than any should have, so that it is seen as wrong. The rest is dropped."""
LARGE_BYTES = 256 * 1024
"""A frame of this size or more is not copied: to keep it where libzmq has it takes some 10 µs, about as long as a copy of it."""
MAX_SOCKETS = 16_384
"""libzmq's own bound is 1023, and each neighbour takes up to five. Beyond this number, file descriptors are the limit."""

Peer = tuple[str, int]
_BOUND = ("parcel", "feedback")
_NOBLOCK, _POLLIN = int(zmq.NOBLOCK), int(zmq.POLLIN)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
"""Plain numbers: to combine two of pyzmq's flags takes 0.7 µs each time."""
_send: Callable[..., Any] = zmq.backend.Socket.send
"""Without pyzmq's wrapper, whose options are not used here: 0.4 µs against 2.0 (measured)."""
_poll = zmq.backend.zmq_poll
"""Tells whether a socket has something: 1.0 µs against 2.3 for its option EVENTS, which pyzmq makes a member of an enum."""
_UP = zmq.EVENT_HANDSHAKE_SUCCEEDED
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
_DOWN = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | _FAILED
_MONITOR_EVENT = struct.Struct("=hi")  # zmq_socket_monitor(3); pyzmq's own parser brings asyncio, 6 MiB
_ACCEPTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | _FAILED
_SIGNS: dict[str, tuple[What, What, int]] = {
    "connection": ("up", "down", zmq.EVENT_DISCONNECTED),
    "session": ("ready", "lost", _DOWN),
}
"""For each kind of monitor: the arrival that tells of a handshake, the one that tells of an end, and the events of an end."""
_KEYED = ("zap", "accepted", "subscription")


class _Role(NamedTuple):
    """What a descriptor is watched for: `what` and `key` as in an `Arrival`; `socket` is None if it is not a socket's."""

    what: str
    key: Any
    socket: zmq.Socket[bytes] | None


class Bound(NamedTuple):
    """The addresses at which an instance binds its sockets."""

    inbox: str
    feedback: str
    control: str


class Sockets:
    """Nothing blocks but `poll`.

    pair     the keys of this host, if there are any;  trusted: those of the others
    """

    def __init__(self, pair: KeyPair | None = None, trusted: TrustedKeys | None = None) -> None:
        self._context = zmq.Context(1)
        self._context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self._epoll = select.epoll()
        self._roles: dict[int, _Role] = {}
        self._unread: dict[int, None] = {}
        self._pair = pair
        self._zap = ZapAnswers(self._context, trusted or TrustedKeys()) if pair is not None else None
        if self._zap is not None:
            self._register(self._zap.socket, "zap", None)
        self._upstreams: dict[Peer, UpstreamLine] = {}
        self._connect_at: dict[Peer, float] = {}
        self._accepted: AcceptedConnections | None = None
        self._failing: curve.Problem | None = None
        self._sessions: dict[bytes, zmq.Socket[bytes]] = {}
        self._session_keys: dict[bytes, str] = {}
        self._feedback: zmq.Socket[bytes] | None = None
        self._feedback_fd = -1
        self._control: zmq.Socket[bytes] | None = None
        self._bound: set[str | int] = set()
        self._too_long: set[zmq.Socket[bytes]] = set()

    def bind(
        self,
        inbox: str,
        feedback: str,
        control: str,
        high_water_mark: int,
        remote: Bound | None = None,
        credit_bytes: int = 0,
    ) -> str:
        """Binds the three sockets and returns the inbox's address (a tcp port `*` is chosen). Raises OperatorError.

        high_water_mark  of the inbox, above the credit that is given: it stops whoever sends without credit
        remote           more addresses of the same sockets, for other hosts: with keys, if this host has any
        credit_bytes     the most credit that producers are given
        """
        pull = make_socket(self._context, zmq.PULL, rcvhwm=high_water_mark)
        router = self._feedback = make_socket(self._context, zmq.ROUTER, maxmsgsize=socket_options.MAX_STATEMENT_BYTES)
        self._control = make_socket(self._context, zmq.XPUB, maxmsgsize=MAX_SUBSCRIPTION_BYTES, rcvhwm=SUBSCRIPTIONS)
        # Every subscription is reported, not only the first to a topic: each sender must be known.
        self._control.setsockopt(zmq.XPUB_VERBOSE, 1)
        sockets = (pull, router, self._control)
        local = Bound(inbox, feedback, control)
        if remote is not None or control.startswith("tcp:"):
            self._accepted = AcceptedConnections(credit_bytes)
            for socket, name in zip(sockets, Bound._fields, strict=True):
                self._register(socket.get_monitor_socket(_ACCEPTS), "accepted", name)
        for socket, address in zip(sockets, local, strict=True):
            self._bind(socket, address)
        chosen: str = pull.getsockopt_string(zmq.LAST_ENDPOINT)
        for socket, address, name in zip(sockets, remote or (), Bound._fields, strict=remote is not None):
            if self._pair is not None:  # the options apply only to addresses that are bound from here on
                curve.serve(socket, self._pair, name.encode())
            self._bind(socket, address)
        self._register(pull, "parcel", None)
        self._feedback_fd = self._register(router, "feedback", None)
        return chosen

    def _bind(self, socket: zmq.Socket[bytes], address: str) -> None:
        try:
            socket_options.bind(socket, address)
        except zmq.ZMQError as error:
            hint = ": is this the host that the config means?" if error.errno == errno.EADDRNOTAVAIL else ""
            raise OperatorError(f"cannot bind {address}: {error.strerror or error}{hint}") from None
        endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        kind, _, where = endpoint.partition("://")
        self._bound.add(where if kind == "ipc" else int(where.rpartition(":")[2]))

    def watch_fd(self, fd: int, each_write: bool = False) -> None:
        """Has `poll` wake up while the file descriptor is readable; with `each_write` once for each write to it, so that nobody
        need read it."""
        self._watch(fd, _Role("fd", fd, None), select.EPOLLET if each_write else 0)

    # ---- upstream

    def connect_upstream(self, peer: Peer, feedback: str, control: str, host: str = "") -> None:
        """A DEALER and a SUB to an upstream instance, which may not be there yet. They reconnect by themselves. Raises
        OperatorError.

        host  whose key is expected at these addresses; "": they are of this host
        """
        try:
            if peer not in self._upstreams:
                self._connect_upstream(peer, feedback, control, host)
        except zmq.ZMQError as error:  # no file descriptors are left: the process has to end
            raise OperatorError(f"cannot connect to {feedback}: {error.strerror or error}") from None

    def _connect_upstream(
        self, peer: Peer, feedback: str, control: str, host: str, refused: int = 0, down_since: float | None = None
    ) -> None:
        dealer = make_socket(self._context, zmq.DEALER, maxmsgsize=socket_options.MAX_STATEMENT_BYTES, linger=500)
        dealer.setsockopt(zmq.IMMEDIATE, 1)  # a hello for the last incarnation must not reach the next
        sub = make_socket(self._context, zmq.SUB)
        sub.setsockopt(zmq.SUBSCRIBE, b"announcement")
        keys = self._zap.trusted.hosts.get(host, ()) if self._zap is not None and host else ()
        key = keys[refused % len(keys)] if keys else ""
        for socket in (dealer, sub):
            socket.setsockopt(zmq.RECONNECT_IVL, socket_options.RECONNECT_MS)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, socket_options.RECONNECT_MAX_MS)
            if self._pair is not None and key:
                curve.expect(socket, self._pair, key)
        self._monitor(dealer, "connection", peer)
        self._upstreams[peer] = UpstreamLine(
            feedback,
            control,
            host,
            dealer,
            sub,
            self._register(dealer, "upstream", peer),
            key,
            refused,
            time.monotonic() if down_since is None else down_since,
        )
        self._register(sub, "announcement", peer)
        if key:
            self._register(sub.get_monitor_socket(_FAILED), "subscription", peer)
        if self._pair is None or key or not host:  # with keys, no host is connected to of which no key is trusted
            connect(dealer, feedback)
            connect(sub, control)

    def _connect_again(self, peer: Peer, refused: int) -> None:
        """Connects with new sockets: libzmq does not apply an option to a connection that it makes again."""
        line = self._upstreams.pop(peer)
        self._connect_at.pop(peer, None)
        self._end(line)
        self._connect_upstream(peer, line.feedback, line.control, line.host, refused, line.down_since)

    def _end(self, line: UpstreamLine) -> None:
        for socket, watched in ((line.dealer, True), (line.sub, bool(line.key))):
            self._unregister(socket)
            if watched:
                self._forget(socket)
            else:
                socket.close()

    def unreached(self) -> dict[Peer, tuple[str, float]]:
        """Upstream instances to which there is no connection: the address, and for how long, in seconds."""
        now = time.monotonic()
        return {
            peer: (line.feedback, now - line.down_since)
            for peer, line in self._upstreams.items()
            if line.down_since is not None
        }

    def tell(self, peer: Peer, frame: bytes) -> bool:
        """Sends to an upstream instance's feedback. False: it is not connected, or does not read. Statements are repeated."""
        line = self._upstreams[peer]
        try:
            _send(line.dealer, frame, _NOBLOCK)
        except zmq.Again:
            return False
        finally:
            self._unread[line.fd] = None
        return True

    # ---- downstream

    def open_session(self, session: bytes, address: str, high_water_mark: int, key: str = "") -> bool:
        """A PUSH for the life of one session. False: the address cannot be connected to, or no descriptors are left.

        key  that the inbox has to own, as the consumer has shown it; "": none
        """
        push = None
        try:
            push = make_socket(self._context, zmq.PUSH, sndhwm=high_water_mark)
            push.setsockopt(zmq.IMMEDIATE, 1)
            push.setsockopt(zmq.RECONNECT_IVL, -1)
            if self._pair is not None and key:
                curve.expect(push, self._pair, key)
                self._session_keys[session] = key
            self._monitor(push, "session", session)
            self._sessions[session] = push
            connect(push, address)
        except zmq.ZMQError:
            if push is not None and session not in self._sessions:
                push.close()
            return False
        return True

    def send_parcel(self, session: bytes, header: bytes, body: bytes) -> bool:
        """False: the session is gone, or the send would block. Within the credit that means that it is broken."""
        push = self._sessions.get(session)
        if push is None:
            return False
        try:
            _send(push, header, _NOBLOCK_MORE)
            _send(push, body, _NOBLOCK, len(body) < LARGE_BYTES)
        except zmq.Again:
            return False
        return True

    def close_session(self, session: bytes) -> None:
        push = self._sessions.pop(session, None)
        self._session_keys.pop(session, None)
        if push is not None:
            self._forget(push)

    def reply(self, route: bytes, frame: bytes) -> None:
        """Sends to whoever sent a frame to the feedback. ROUTER drops it if the route is gone, or does not read."""
        assert self._feedback is not None
        _send(self._feedback, route, _NOBLOCK_MORE)
        _send(self._feedback, frame, _NOBLOCK)
        self._unread[self._feedback_fd] = None

    def publish(self, topic: bytes, frame: bytes) -> Iterator[Arrival]:
        """Returns what subscribers have sent since the last call. As it is read only here, it cannot keep the loop awake."""
        assert self._control is not None
        self._control.send_multipart([topic, frame], zmq.NOBLOCK)
        return self._read_bound(self._control, "control", -1, TURN * SUBSCRIPTIONS)

    def disconnect(self, arrival: Arrival) -> None:
        """Ends the connection by which it came, if it is still there. Whoever sent it may connect again."""
        self._end_connection(self.connection_of(arrival))

    # ---- keys

    def trust(self, trusted: TrustedKeys) -> list[bytes]:
        """Trusts these keys from now on. Ends connections that were made with a key that is no longer trusted. Returns the
        sessions that use such a key, which the caller has to close."""
        if self._zap is None:
            return []
        before = {key for keys in self._zap.trusted.hosts.values() for key in keys}
        self._zap.trust(trusted)
        dropped = before - {key for keys in trusted.hosts.values() for key in keys}
        addresses = self._zap.addresses_of(dropped)
        if addresses:
            self._shut_down(addresses)
        for peer, line in list(self._upstreams.items()):
            if line.host and (line.key in dropped or not line.key):
                self._connect_again(peer, 0)
        return [session for session, key in self._session_keys.items() if key in dropped]

    def _shut_down(self, addresses: set[str]) -> None:
        """Ends all connections from these addresses, since libzmq does not tell which key each has shown. Peers that may connect
        do so again at once."""
        for fd in map(int, os.listdir("/proc/self/fd")):
            if bound_to(fd) in self._bound and connected_from(fd) in addresses:
                shut_down(fd)

    def connection_of(self, arrival: Arrival) -> int:
        """The number of the connection by which a frame came; -1 if that is not known."""
        return connection_of(arrival.origin)

    def shown_key(self, arrival: Arrival) -> ShownKey:
        """What the sender has proved to be, of a frame that came by a socket that is bound here."""
        if self._zap is None or arrival.origin is None:
            return ShownKey()
        try:
            key = str(arrival.origin.get("User-Id"))
        except zmq.ZMQError:
            return ShownKey()
        return ShownKey(self._zap.trusted.owner(key), key)

    # ---- polling

    def poll(self, timeout_s: float, turn_lock: threading.Lock | None = None) -> Iterator[Arrival]:
        """Waits at most so long, then gives what has come, at most TURN messages of a socket.

        A socket's descriptor tells once that something may have come, and a send takes that sign away (zmq_getsockopt(3),
        ZMQ_FD). So a socket is read after either, until it has no more. To ask libzmq which of them have something takes ten
        times as long as to ask the kernel about their descriptors.

        A parcel that was waited for is mostly alone: it is handed on first, and only the next poll looks for another. The lock
        `turn_lock` is held, and free while this waits: a thread that takes it meanwhile may send parcels.
        """
        wait_s = min(timeout_s, 60.0) if timeout_s > 0.0 else 0.0
        until = time.monotonic() + wait_s
        if self._connect_at:
            self._connect_due(time.monotonic())
        if self._accepted is not None:
            if ended := self._end_unfinished(self._accepted, time.monotonic()):
                yield from ended
                return  # other threads do not wake a caller that has been given something
            wait_s = min(wait_s, self._accepted.next_look_s(time.monotonic()))
        came = False
        while not came:
            unread, self._unread = self._unread, {}
            waited = not unread
            for fd, _ in self._wait(wait_s, turn_lock) if waited else self._epoll.poll(0.0):
                unread[fd] = None
            for fd in unread:
                for arrival in self._read(fd, waited):
                    came = True
                    yield arrival
            # A descriptor may also fire for libzmq's own work alone, which is not worth a turn of the loop.
            if not came and (wait_s := until - time.monotonic()) <= 0.0:
                return

    def _wait(self, wait_s: float, turn_lock: threading.Lock | None) -> list[tuple[int, int]]:
        if turn_lock is None:
            return self._epoll.poll(wait_s)
        turn_lock.release()
        try:
            return self._epoll.poll(wait_s)
        finally:
            turn_lock.acquire()

    def _end_unfinished(self, accepted: AcceptedConnections, now: float) -> list[Arrival]:
        """Ends connections that send one message without end, and what libzmq keeps of it."""
        ended = []
        for fd in accepted.unfinished(now):
            ended.append(Arrival("refusal", Refusal("no end", accepted.address(fd), False), []))
            self._end_connection(fd)
        return ended

    def _end_connection(self, fd: int) -> None:
        """Ends a connection, if it is known and is one to a socket that is bound here. The peer may connect again."""
        with suppress(OSError):
            if fd >= 0 and bound_to(fd) in self._bound:
                shut_down(fd)

    def _connect_due(self, now: float) -> None:
        """Connects again where it is time. `poll` does not wake up for it: an idle instance wakes up once a second anyway."""
        for peer in [peer for peer, at in self._connect_at.items() if at <= now]:
            self._connect_again(peer, self._upstreams[peer].refused)

    def _read(self, fd: int, waited: bool) -> Iterator[Arrival]:
        role = self._roles.get(fd)
        if role is None:  # closed by an arrival handled just before
            return iter(())
        what, key, socket = role
        if socket is None:
            return iter((Arrival("fd", key, []),))
        if what in _SIGNS:
            return self._events(socket, what, key)
        if what in _KEYED:
            return self._key_events(socket, what, key)
        if what == "parcel" and waited:
            return self._read_bound(socket, what, fd, 1, sure=True)
        return self._read_bound(socket, what, fd) if what in _BOUND else self._read_connected(socket, what, fd, key)

    def _read_connected(self, socket: zmq.Socket[bytes], what: str, fd: int, key: Any) -> Iterator[Arrival]:
        items = [(socket, _POLLIN)]
        for _ in range(TURN):
            if not _poll(items, 0):  # an exception costs many times as much
                return
            try:
                multipart = socket.recv_multipart(_NOBLOCK)
            except zmq.Again:  # likewise
                break
            yield Arrival(what, key, multipart)  # type: ignore[arg-type]
        self._unread[fd] = None

    def _read_bound(
        self, socket: zmq.Socket[bytes], what: str, fd: int, turn: int = TURN, sure: bool = False
    ) -> Iterator[Arrival]:
        """Reads a socket that anybody may have connected to. The first frame of a message is kept, since it tells the sender.
        `sure`: there is nearly always a message, so it is not asked first."""
        items = [(socket, _POLLIN)]
        for _ in range(turn):
            if not sure and not _poll(items, 0):
                return
            try:
                frame = first = socket.recv(_NOBLOCK, copy=False)
            except zmq.Again:  # a message that was never finished, and whose sender has gone
                break
            if self._accepted is not None and self._accepted.watched:
                self._accepted.finished(connection_of(first))
            if self._too_long and socket in self._too_long:
                if not first.more:
                    self._too_long.discard(socket)
                continue
            multipart: list[bytes | memoryview] = [first.bytes]
            while frame.more:
                if len(multipart) == MOST_FRAMES:
                    self._too_long.add(socket)
                    break
                frame = socket.recv(_NOBLOCK, copy=False)
                multipart.append(frame.bytes if len(frame) < LARGE_BYTES else frame.buffer)
            yield Arrival(what, None, multipart, first)  # type: ignore[arg-type]
        self._unread[fd] = None

    def _events(self, monitor: zmq.Socket[bytes], what: str, key: Any) -> Iterator[Arrival]:
        up, down, ends = _SIGNS[what]
        while not monitor.closed:
            try:
                multipart = monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            event, value = _MONITOR_EVENT.unpack(multipart[0])
            if event == _UP:
                if what == "connection":
                    self._upstreams[key].made()
                yield Arrival(up, key, [])
                continue
            if event & _FAILED and (refusal := self._failed(what, key, event, value)) is not None:
                yield Arrival("refusal", refusal, [])
            if event & ends:
                if what == "connection":
                    self._upstreams[key].lost()
                yield Arrival(down, key, [])
                if what == "session":
                    return  # it has one life

    def _failed(self, what: str, key: Any, event: int, value: int) -> Refusal | None:
        """A handshake of a connection that was made from here has failed. None: it says nothing of keys yet."""
        problem = curve.problem_at_client(event, value)
        if what == "session":
            expected = self._session_keys.get(key, "")
            owner = self._zap.trusted.owner(expected) if self._zap is not None else ""
            return Refusal(problem, owner, True, expected, "inbox") if expected else None
        line = self._upstreams[key]
        if problem == "wrong server key":
            keys = self._zap.trusted.hosts.get(line.host, ()) if self._zap is not None else ()
            if not line.key:
                return None  # without keys that is a peer that has gone
            line.failed()
            if len(keys) > 1:
                self._connect_at[key] = time.monotonic()
            if line.refused <= len(keys):  # the peer may just have been ending
                return None
        else:  # libzmq does not try again by itself
            self._connect_at[key] = time.monotonic() + REFUSED_S
        return Refusal(problem, line.host or line.feedback, True, line.key, "feedback")

    def _key_events(self, socket: zmq.Socket[bytes], what: str, key: Any) -> Iterator[Arrival]:
        """Reads the sockets that tell of refused keys: ZAP, and the monitors that are only there for that."""
        if what == "zap":
            assert self._zap is not None
            yield from (Arrival("refusal", refusal, []) for refusal in self._zap.answer())
            return
        while not socket.closed:
            try:
                multipart = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            event, value = _MONITOR_EVENT.unpack(multipart[0])
            if what == "subscription":
                self._connect_at.setdefault(key, time.monotonic() + REFUSED_S)
            elif not multipart[1].startswith(b"tcp:"):
                continue  # over ipc only this user's processes come
            elif event == zmq.EVENT_ACCEPTED:
                yield from self._accept(value, key)
            elif event & _FAILED:
                self._failing = curve.problem_at_server(event, value)
            elif event == zmq.EVENT_DISCONNECTED:
                # This event follows that of the failed handshake at once, and only this one names the descriptor, by which the
                # address is known.
                where, problem = self._accepted.remove(value) if self._accepted is not None else "", self._failing
                self._failing = None
                if problem is not None and self._pair is not None:
                    yield Arrival("refusal", Refusal(problem, where or SOMEBODY, False, "", key), [])

    def _accept(self, fd: int, socket: str) -> Iterator[Arrival]:
        where = connected_from(fd)
        over = self._accepted.add(fd, where) if self._accepted is not None else None
        if self._accepted is not None and over is not None:
            yield Arrival("refusal", Refusal("too many", self._accepted.address(over), False, "", socket), [])
            self._end_connection(over)

    # ---- making and ending sockets

    def _register(self, socket: zmq.Socket[bytes], what: str, key: Any) -> int:
        """Returns its descriptor."""
        fd: int = socket.FD
        self._watch(fd, _Role(what, key, socket))
        self._unread[fd] = None  # what came before
        return fd

    def _watch(self, fd: int, role: _Role, how: int = 0) -> None:
        self._roles[fd] = role
        self._epoll.register(fd, select.EPOLLIN | how)

    def _monitor(self, socket: zmq.Socket[bytes], what: str, key: Any) -> None:
        self._register(socket.get_monitor_socket(_UP | _DOWN), what, key)

    def _unregister(self, socket: zmq.Socket[bytes]) -> None:
        fd: int = socket.FD
        self._epoll.unregister(fd)
        del self._roles[fd]
        self._unread.pop(fd, None)

    def _forget(self, socket: zmq.Socket[bytes]) -> None:
        """Ends a socket that has a monitor."""
        monitor = socket.get_monitor_socket()
        fd: int = monitor.FD
        self._epoll.unregister(fd)
        del self._roles[fd]
        socket.disable_monitor()
        monitor.close()
        socket.close()

    def leave_to_parent(self) -> None:
        """In a child that a plugin has forked: lets go of bound sockets and of the connections to them. Otherwise the port stays
        taken, and no neighbour sees the end of its connection, for as long as the child lives.

        Each descriptor is replaced and not closed, since libzmq in the child still knows its number.
        """
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in map(int, os.listdir("/proc/self/fd")):
            if bound_to(fd) in self._bound:
                os.dup2(nothing, fd, inheritable=False)
        os.close(nothing)

    def close(self) -> None:
        """Closes everything. What is left in a DEALER is sent for half a second yet; data sockets hold nothing by then."""
        for session in list(self._sessions):
            self.close_session(session)
        for line in self._upstreams.values():
            self._end(line)
        for socket in (self._feedback, self._control, *(role.socket for role in self._roles.values())):
            if socket is not None and not socket.closed:
                socket.close(linger=500 if socket is self._control else 0)
        self._epoll.close()
        self._context.term()
