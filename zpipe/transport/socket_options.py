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
"""A try to connect is given up after this. The kernel alone tries a silent host again after 1, 2, 4 … 64 s, and gives up after
127: for so long a connection would stay down although the host is back. A new try also looks its name up again."""
HANDSHAKE_MS = 10_000
"""A connection without a finished handshake is ended after this. With keys a handshake takes some milliseconds and one turn."""
MAX_FRAME_BYTES = 17 * 1024 * 1024
"""A little above the largest message. libzmq ends a connection that brings a larger frame."""

MAX_STATEMENT_BYTES = frames.MAX_FRAME_BYTES + 1024
"""For all frames but those of parcels: a little above what the core reads."""
UNREAD = 1000
"""How many frames to or from one peer may wait to be read. Losing more does no harm, since all but parcels are repeated. Without
a limit 300,000 unread answers took 92 MiB (measured); 1,000 take 0.3."""
MAX_SUBSCRIPTION_BYTES = 512
"""libzmq makes a node of its tree of topics for each byte of one: 16 MiB became 1.8 GiB (measured). A topic has 12 bytes. The
handshake needs the rest: 300 bytes where there are keys."""
SUBSCRIPTIONS = 16
"""How many subscriptions of one connection may wait to be read: more than there are topics."""


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
    """Connects to a name by IPv6 if it has such an address, else by IPv4. An IPv4 address is never mapped to IPv6, since it would
    not be recognized then. Raises zmq.ZMQError."""
    socket.setsockopt(zmq.IPV6, int(may_be_ipv6(address)))
    socket.connect(address)
