"""The options of the sockets that stages use: bounds, heartbeats, and by which version of IP an address is reached.

Numbers and their reasons belong here. Must not live here: keys (`curve`), and when a socket is made or ended.
"""

from __future__ import annotations

import zmq

from zpipe.core.wire import frames
from zpipe.core.wire.peer_address import as_ip

HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 2000, 6000
RECONNECT_MS, RECONNECT_MAX_MS = 50, 500
CONNECT_MS = 5_000
"""The kernel asks a host that does not answer again after 1, 2, 4 … 64 s, and gives up after 127. For so long a line stayed down
whose host was back by then, or had another address. Given up and tried anew, the name is looked up again as well."""
HANDSHAKE_MS = 10_000
"""Whoever has connected and not shaken hands by then is hung up on. With keys that takes some milliseconds and one turn."""
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


def make_socket(
    context: zmq.Context[zmq.Socket[bytes]],
    kind: int,
    *,
    sndhwm: int = UNREAD,
    rcvhwm: int = UNREAD,
    maxmsgsize: int = MAX_FRAME_BYTES,
    linger: int = 0,
) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, linger)
    socket.setsockopt(zmq.SNDHWM, sndhwm)
    socket.setsockopt(zmq.RCVHWM, rcvhwm)
    socket.setsockopt(zmq.MAXMSGSIZE, maxmsgsize)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)
    return socket


def may_be_ipv6(address: str) -> bool:
    """Whether an address may be one of IPv6: such a one itself, or a name (`*` is every address of the machine)."""
    host = address.removeprefix("tcp://").rpartition(":")[0]
    ip = as_ip(host)
    return address.startswith("tcp://") and (ip is None or ip.version == 6)


def bind(socket: zmq.Socket[bytes], address: str) -> None:
    """Raises zmq.ZMQError."""
    socket.setsockopt(zmq.IPV6, int(may_be_ipv6(address)))
    socket.bind(address)


def connect(socket: zmq.Socket[bytes], address: str) -> None:
    """A name is reached by an IPv6 address where it has one, and else by IPv4. An IPv4 address never becomes one of IPv6, as
    which nobody would know it. Raises zmq.ZMQError."""
    socket.setsockopt(zmq.IPV6, int(may_be_ipv6(address)))
    socket.connect(address)
