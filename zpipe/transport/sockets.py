"""The ZeroMQ sockets of one instance: what is bound, what is connected, with which options and why.

Sockets belong here, their options, polling and moving frames. Must not live here: decoding a frame, or a decision about one.
Everything here is used by one thread at a time: whichever drives the loop.

The options follow measured facts. Without IMMEDIATE, or with a reconnect, a data PUSH delivers stale parcels to the next
incarnation. With a LINGER, a close waits for a dead peer. Without heartbeats, a stopped host is never noticed.
"""

from __future__ import annotations

import os
import re
import select
import socket as system_socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import zmq
import zmq.backend

from zpipe.core.wire import frames
from zpipe.errors import OperatorError

HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 2000, 6000
RECONNECT_MS, RECONNECT_MAX_MS = 50, 500
TURN = 64
"""Messages read from one socket before the others have their turn."""
MOST_FRAMES = 3
"""Of a message that are passed on: one more than any should have, to be seen as too many. The rest is read and dropped."""
LARGE_BYTES = 256 * 1024
"""From here on a frame is not copied: to keep it where libzmq has it takes some 10 us, about as long as to copy so much."""
MAX_FRAME_BYTES = 17 * 1024 * 1024
"""libzmq drops the connection over a larger frame: a little above the largest message."""

MAX_STATEMENT_BYTES = frames.MAX_FRAME_BYTES + 1024
"""Of what is no parcel: a little above what the core reads."""
UNREAD = 1000
"""Frames to or from one peer that wait to be read. All but parcels are repeated, so more than these may be lost. Without a limit
300,000 answers that nobody read took 92 MiB (measured); these take 0.3."""
MAX_SUBSCRIPTION_BYTES = 512
"""libzmq makes a node of its tree of topics for each byte of one: 16 MiB became 1.8 GiB (measured). A topic has 12 bytes. The
handshake needs the rest: 300 bytes where there are keys."""
SUBSCRIPTIONS = 16
"""Of one connection that wait to be read: more than there are topics."""

MAX_SOCKETS = 16_384
"""libzmq's own bound is 1023, and each neighbour takes up to five. Beyond this number, file descriptors are the limit."""

Peer = tuple[str, int]
_BOUND = ("parcel", "feedback")
_NOBLOCK, _POLLIN = int(zmq.NOBLOCK), int(zmq.POLLIN)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
"""Plain numbers: to make one of pyzmq's flags of two others takes as long as a turn's look at the clock, 0.7 µs."""
_send: Callable[..., Any] = zmq.backend.Socket.send
"""Without pyzmq's wrapper, whose options nobody uses here: 0.4 µs against 2.0 (measured)."""
_poll = zmq.backend.zmq_poll
"""Tells whether one socket has something: 1.0 µs against 2.3 for its option EVENTS, which pyzmq makes a member of an enum."""
_UP = zmq.EVENT_HANDSHAKE_SUCCEEDED
_DOWN = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_DOWN |= zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
_MONITOR_EVENT = struct.Struct("=hi")  # zmq_socket_monitor(3); pyzmq's own parser brings asyncio, 6 MiB
_UNIX_PEER = re.compile(r"[^:]*:(\d+):\d+:(\d+)")
What = Literal["parcel", "feedback", "control", "upstream", "announcement", "up", "down", "ready", "lost", "fd"]
_SIGNS: dict[str, tuple[What, What, int]] = {
    "connection": ("up", "down", zmq.EVENT_DISCONNECTED),
    "session": ("ready", "lost", _DOWN),
}
"""What each kind of monitor tells, and of which events the second is."""


@dataclass(slots=True)
class Arrival:
    """Something that came in.

    what    by which socket: upstream is the feedback of an upstream instance, announcement its control
    key     whose it is;  frames: undecoded. A large one from a socket that is bound here is a memoryview
    origin  of what came by a socket that is bound here: what the transport needs to tell who sent it
    """

    what: What
    key: Any
    frames: list[Any]
    origin: Any = None


class _Role(NamedTuple):
    """What a descriptor is there for: `what` and `key` as in an `Arrival`; None for one that is not a socket's."""

    what: str
    key: Any
    socket: zmq.Socket[bytes] | None


class Sockets:
    """Nothing blocks but `poll`."""

    def __init__(self) -> None:
        self._context = zmq.Context(1)
        self._context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self._epoll = select.epoll()
        self._roles: dict[int, _Role] = {}
        self._unread: dict[int, None] = {}
        self._upstreams: dict[Peer, tuple[zmq.Socket[bytes], zmq.Socket[bytes], int]] = {}
        self._sessions: dict[bytes, zmq.Socket[bytes]] = {}
        self._feedback: zmq.Socket[bytes] | None = None
        self._feedback_fd = -1
        self._control: zmq.Socket[bytes] | None = None
        self._bound: set[str | int] = set()
        self._too_long: set[zmq.Socket[bytes]] = set()

    def bind(self, inbox: str, feedback: str, control: str, high_water_mark: int) -> str:
        """Binds the three sockets and returns the inbox's address (a tcp port `*` is chosen). Raises OperatorError.

        high_water_mark  of the inbox, above the credit that is given: whoever sends on without any is stopped there
        """
        pull = self._socket(zmq.PULL, rcvhwm=high_water_mark)
        router = self._feedback = self._socket(zmq.ROUTER, maxmsgsize=MAX_STATEMENT_BYTES)
        self._control = self._socket(zmq.XPUB, maxmsgsize=MAX_SUBSCRIPTION_BYTES, rcvhwm=SUBSCRIPTIONS)
        self._control.setsockopt(
            zmq.XPUB_VERBOSE, 1
        )  # also a topic that another subscriber has: who sends it has to be known
        for socket, address in ((pull, inbox), (router, feedback), (self._control, control)):
            try:
                socket.bind(address)
            except zmq.ZMQError as error:
                raise OperatorError(f"cannot bind {address}: {error.strerror or error}") from None
            endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
            kind, _, where = endpoint.partition("://")
            self._bound.add(where if kind == "ipc" else int(where.rpartition(":")[2]))
        self._register(pull, "parcel", None)
        self._feedback_fd = self._register(router, "feedback", None)
        return pull.getsockopt_string(zmq.LAST_ENDPOINT)

    def watch_fd(self, fd: int, each_write: bool = False) -> None:
        """Has `poll` wake up while the file descriptor is readable; with `each_write` once for each write to it, so that nobody
        need read it."""
        self._watch(fd, _Role("fd", fd, None), select.EPOLLET if each_write else 0)

    # ---- upstream

    def connect_upstream(self, peer: Peer, feedback: str, control: str) -> None:
        """A DEALER and a SUB to an upstream instance, which may not be there yet. They reconnect by themselves. Raises
        OperatorError."""
        try:
            if peer not in self._upstreams:
                self._connect_upstream(peer, feedback, control)
        except zmq.ZMQError as error:  # no file descriptors are left: the process has to end
            raise OperatorError(f"cannot connect to {feedback}: {error.strerror or error}") from None

    def _connect_upstream(self, peer: Peer, feedback: str, control: str) -> None:
        dealer = self._socket(zmq.DEALER, maxmsgsize=MAX_STATEMENT_BYTES, linger=500)
        dealer.setsockopt(zmq.IMMEDIATE, 1)  # a hello for the last incarnation must not reach the next
        sub = self._socket(zmq.SUB)
        sub.setsockopt(zmq.SUBSCRIBE, b"announcement")
        for socket in (dealer, sub):
            socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        self._monitor(dealer, "connection", peer)
        dealer.connect(feedback)
        sub.connect(control)
        self._upstreams[peer] = (dealer, sub, self._register(dealer, "upstream", peer))
        self._register(sub, "announcement", peer)

    def tell(self, peer: Peer, frame: bytes) -> bool:
        """Sends to an upstream instance's feedback. False: it is not connected, or does not read. Statements are repeated."""
        dealer, _, fd = self._upstreams[peer]
        try:
            _send(dealer, frame, _NOBLOCK)
        except zmq.Again:
            return False
        finally:
            self._unread[fd] = None
        return True

    # ---- downstream

    def open_session(self, session: bytes, address: str, high_water_mark: int) -> bool:
        """A PUSH for the life of one session. False: the address cannot be connected to, or no descriptors are left."""
        push = None
        try:
            push = self._socket(zmq.PUSH, sndhwm=high_water_mark)
            push.setsockopt(zmq.IMMEDIATE, 1)
            push.setsockopt(zmq.RECONNECT_IVL, -1)
            self._monitor(push, "session", session)
            self._sessions[session] = push
            push.connect(address)
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
        with suppress(zmq.ZMQError, OSError):
            fd = arrival.origin.get(zmq.SRCFD)
            if _bound_to(fd) in self._bound:
                plug = system_socket.socket(fileno=fd)
                try:
                    plug.shutdown(system_socket.SHUT_RDWR)  # to close it is libzmq's
                finally:
                    plug.detach()

    # ---- polling

    def poll(self, timeout_s: float) -> Iterator[Arrival]:
        """Waits at most so long, then gives what has come, at most TURN messages of a socket.

        A socket's descriptor tells once that something may have come, and a send takes that sign away (zmq_getsockopt(3),
        ZMQ_FD). So a socket is read after either, until it has no more. To ask libzmq which of them have something takes ten
        times as long as to ask the kernel about their descriptors.
        """
        wait_s = min(max(timeout_s, 0.0), 60.0)
        until = time.monotonic() + wait_s
        came = False
        while not came:
            unread, self._unread = self._unread, {}
            for fd, _ in self._epoll.poll(0.0 if unread else wait_s):
                unread[fd] = None
            for fd in unread:
                for arrival in self._read(fd):
                    came = True
                    yield arrival
            # What libzmq has done for itself is a sign, too, and is not worth a turn of the loop.
            if not came and (wait_s := until - time.monotonic()) <= 0.0:
                return

    def _read(self, fd: int) -> Iterator[Arrival]:
        role = self._roles.get(fd)
        if role is None:  # closed by an arrival handled just before
            return iter(())
        what, key, socket = role
        if socket is None:
            return iter((Arrival("fd", key, []),))
        if what in _SIGNS:
            return self._events(socket, what, key)
        return self._read_bound(socket, what, fd) if what in _BOUND else self._read_connected(socket, what, fd, key)

    def _read_connected(self, socket: zmq.Socket[bytes], what: str, fd: int, key: Any) -> Iterator[Arrival]:
        items = [(socket, _POLLIN)]
        for _ in range(TURN):
            if not _poll(items, 0):  # an exception costs many times as much
                return
            yield Arrival(what, key, socket.recv_multipart(_NOBLOCK))  # type: ignore[arg-type]
        self._unread[fd] = None

    def _read_bound(self, socket: zmq.Socket[bytes], what: str, fd: int, turn: int = TURN) -> Iterator[Arrival]:
        """From a socket that anybody may have connected to. The first frame of a message is kept, since it tells the sender."""
        items = [(socket, _POLLIN)]
        for _ in range(turn):
            if not _poll(items, 0):
                return
            frame = first = socket.recv(_NOBLOCK, copy=False)
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
            event: int = _MONITOR_EVENT.unpack(multipart[0])[0]
            if event == _UP:
                yield Arrival(up, key, [])
            elif event & ends:
                yield Arrival(down, key, [])
                if what == "session":
                    return  # it has one life

    # ---- making and ending sockets

    def _socket(
        self,
        kind: int,
        *,
        sndhwm: int = UNREAD,
        rcvhwm: int = UNREAD,
        maxmsgsize: int = MAX_FRAME_BYTES,
        linger: int = 0,
    ) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, linger)
        socket.setsockopt(zmq.SNDHWM, sndhwm)
        socket.setsockopt(zmq.RCVHWM, rcvhwm)
        socket.setsockopt(zmq.MAXMSGSIZE, maxmsgsize)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)
        return socket

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

    def _forget(self, socket: zmq.Socket[bytes]) -> None:
        monitor = socket.get_monitor_socket()
        fd: int = monitor.FD
        self._epoll.unregister(fd)
        del self._roles[fd]
        socket.disable_monitor()
        monitor.close()
        socket.close()

    def leave_to_parent(self) -> None:
        """In a child that a plugin has forked: lets go of what is bound here, and of whoever has connected to it. Otherwise
        the port stays taken, and no neighbour sees the end of the connection, for as long as the child lives.

        A descriptor is put over each, since libzmq in the child still knows their numbers.
        """
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in map(int, os.listdir("/proc/self/fd")):
            if _bound_to(fd) in self._bound:
                os.dup2(nothing, fd, inheritable=False)
        os.close(nothing)

    def close(self) -> None:
        """Closes everything. What is left in a DEALER is sent for half a second yet; data sockets hold nothing by then."""
        for session in list(self._sessions):
            self.close_session(session)
        for dealer, sub, _ in self._upstreams.values():
            self._forget(dealer)
            sub.close()
        for socket in (self._feedback, self._control, *(role.socket for role in self._roles.values())):
            if socket is not None and not socket.closed:
                socket.close(linger=500 if socket is self._control else 0)
        self._epoll.close()
        self._context.term()


def sender(arrival: Arrival) -> str:
    """What libzmq knows of who sent it: of a Unix socket HOST:UID:GID:PID, of tcp the host; "" if it knows nothing."""
    if arrival.origin is None:
        return ""
    try:
        address = str(arrival.origin.get("Peer-Address"))
    except zmq.ZMQError:
        return ""
    found = _UNIX_PEER.fullmatch(address)
    return f"uid {found[1]}, pid {found[2]}" if found else address


def _bound_to(fd: int) -> str | int | None:
    """The path or the port at this end of a connection, or of a socket that listens; None for any other descriptor."""
    try:
        plug = system_socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        if plug.type != system_socket.SOCK_STREAM:
            return None
        name = plug.getsockname()
        if plug.family == system_socket.AF_UNIX:
            return str(name)
        return int(name[1]) if plug.family in (system_socket.AF_INET, system_socket.AF_INET6) else None
    finally:
        plug.detach()
