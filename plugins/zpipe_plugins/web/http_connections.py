"""The connections of `http_listen`: how many there may be, and how long a client may take to send a request.

A connection is *receiving* until a whole request has arrived, and again after each answer. Only a receiving connection costs
its client nothing, so these are what is bounded for each address, and what is ended first when there are too many in all.

Must not live here: what a request says, and how it is answered. All of it runs on the event loop of the stage.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, cast

from zpipe import Context

_MOST_HEADER = 64 << 10
"""Bytes of a request's header, looked at before each read (of at most 256 KiB). Apache and nginx take 8 KiB a line."""
_MOST_PIPELINED = 16
"""Requests that a client has sent before the answer to an earlier one. uvicorn (0.55) keeps all of them: a client that sent
requests of 18 bytes and read no answer had 800,000 kept after 12 s."""
_NETWORK_BITS = 64
"""An IPv6 host has a whole /64 of addresses, so they count as one."""


@dataclass(frozen=True)
class Limits:
    """header_s, body_s: for a client to send each of them;  most: connections in all;  receiving: of one address"""

    header_s: float
    body_s: float
    most: int
    receiving: int


class Connection(asyncio.Protocol):
    """One connection: a server's protocol, and a timer that ends it when the client takes too long.

    Whoever answers a request says how far it is: `reads_body`, `waits`, `answers`, `discards`, and then `reads_header`.
    """

    def __init__(self, connections: Connections, limits: Limits) -> None:
        self.address = ""
        self.receiving = False
        self._connections = connections
        self._limits = limits
        self._protocol: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._header_bytes: int | None = 0
        self._over = False

    def serve(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol

    # ---- how far a request is

    def reads_header(self) -> None:
        """Nothing has come of the next request yet."""
        self._header_bytes = 0
        self._receives(True)
        self._within(self._limits.header_s, self._late_header)

    def reads_body(self) -> None:
        self._header_bytes = None
        self._within(self._limits.body_s, self._late_body)

    def waits(self) -> None:
        """A whole request has come; it is up to the pipeline now."""
        self._header_bytes = None
        self._receives(False)
        self._within(None, self.end)

    def answers(self) -> None:
        """The client has to read the answer, too."""
        self._within(self._limits.body_s, self.cut_off)

    def discards(self) -> None:
        """The answer has been sent, and what is still to come of the request is of no interest."""
        self._within(self._limits.body_s, self.end)

    def end(self) -> None:
        """Closes it at once: what has not been sent is not sent."""
        self._forget()
        if self._transport is not None:
            self._transport.abort()

    def cut_off(self) -> None:
        """Likewise, for a limit."""
        self._connections.ended.inc()
        self.end()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self._protocol is not None
        self._transport = cast(asyncio.Transport, transport)
        self._protocol.connection_made(transport)
        self.address = network_of(transport.get_extra_info("peername"))
        self._connections.opened(self)
        if not self._transport.is_closing():
            self.reads_header()
        self._connections.thin_out(self.address)

    def data_received(self, data: bytes) -> None:
        assert self._protocol is not None
        if self._header_bytes is not None:
            if self._header_bytes > _MOST_HEADER:
                self._connections.ended.inc()
                self._refuse("431 Request Header Fields Too Large", f"the header has more than {_MOST_HEADER} bytes")
                return
            self._header_bytes += len(data)
        self._protocol.data_received(data)
        if len(getattr(self._protocol, "pipeline", ())) > _MOST_PIPELINED:
            self.cut_off()

    def eof_received(self) -> bool | None:
        assert self._protocol is not None
        return self._protocol.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        assert self._protocol is not None
        self._forget()
        self._protocol.connection_lost(error)

    def pause_writing(self) -> None:
        assert self._protocol is not None
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        assert self._protocol is not None
        self._protocol.resume_writing()

    # ---- inside

    def _receives(self, receiving: bool) -> None:
        self.receiving = receiving
        self._connections.changed(self)

    def _within(self, seconds: float | None, late: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None and not self._over:
            self._timer = asyncio.get_running_loop().call_later(seconds, late)

    def _forget(self) -> None:
        self._over = True
        self._within(None, self.end)
        self._connections.gone(self)

    def _late_header(self) -> None:
        self._connections.ended.inc()
        if not self._header_bytes:
            self.end()  # a client that has sent nothing would take an answer for that of its next request
        else:
            self._refuse("408 Request Timeout", f"the header did not arrive within {self._limits.header_s:g} s")

    def _late_body(self) -> None:
        self._connections.ended.inc()
        self._refuse("408 Request Timeout", f"the body did not arrive within {self._limits.body_s:g} s")

    def _refuse(self, status: str, words: str) -> None:
        """What a request is answered that never reached whoever answers them."""
        assert self._transport is not None
        body = f'{{"error": "{words}"}}\n'
        fields = ("content-type: application/json", f"content-length: {len(body)}", "connection: close")
        self._transport.write("\r\n".join((f"HTTP/1.1 {status}", *fields, "", body)).encode())
        if self._transport.get_write_buffer_size():
            self.end()  # a client that does not read
        else:
            self._forget()
            self._transport.close()


@dataclass
class _Client:
    """The connections of one address, each in the order in which they became what they are."""

    all: dict[Connection, None] = field(default_factory=dict)
    receiving: dict[Connection, None] = field(default_factory=dict)


class Connections:
    """All connections of one listening socket, by address.

    ended  counts those that took too long, or were too many
    """

    def __init__(self, limits: Limits, context: Context[Any]) -> None:
        self.ended = context.metrics.counter("ended")
        self._limits = limits
        self._clients: dict[str, _Client] = {}
        self._count = 0

    def accept(self, protocol: Callable[..., asyncio.Protocol], app_state: dict[str, Any], **rest: Any) -> Connection:
        """Makes one that is served by `protocol`; applications find it in the state of their scope, as `connection`."""
        connection = Connection(self, self._limits)
        connection.serve(protocol(app_state={**app_state, "connection": connection}, **rest))
        return connection

    def opened(self, connection: Connection) -> None:
        self._clients.setdefault(connection.address, _Client()).all[connection] = None
        self._count += 1

    def changed(self, connection: Connection) -> None:
        client = self._clients.get(connection.address)
        if client is None or connection not in client.all:
            return  # it has been ended, and whoever answers it does not know yet
        client.receiving.pop(connection, None)
        if connection.receiving:
            client.receiving[connection] = None

    def gone(self, connection: Connection) -> None:
        client = self._clients.get(connection.address)
        if client is None or connection not in client.all:
            return
        del client.all[connection]
        client.receiving.pop(connection, None)
        self._count -= 1
        if not client.all:
            del self._clients[connection.address]

    def thin_out(self, address: str) -> None:
        """After one more of `address`: ends that which has been receiving for longest, where there are too many.

        Never the newest first: an honest client sends its request at once, whoever else has the same address.
        """
        client = self._clients.get(address)
        if client is not None and len(client.receiving) > self._limits.receiving:
            next(iter(client.receiving)).cut_off()
        if self._count > self._limits.most:
            crowd = max(self._clients.values(), key=lambda client: len(client.all))
            (next(iter(crowd.receiving), None) or next(reversed(crowd.all))).cut_off()


def most_connections(wanted: int) -> int:
    """At most half of the file descriptors that this process may open: the rest are for the pipeline's own."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft // 2))


def network_of(peer: Any) -> str:
    """Which addresses count as one."""
    if not peer:
        return ""  # it has gone already
    address: IPv4Address | IPv6Address = ip_address(peer[0])
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return f"{int(address) >> (128 - _NETWORK_BITS):x}/{_NETWORK_BITS}"
    return str(address)
