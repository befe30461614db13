"""`http_listen`: a source that answers HTTP. Each POST is a message, and is answered once the whole pipeline has finished
it.

The body is a JSON value, or one on each line where the content type is `application/x-ndjson`: then each line is a
message. 200 means that every sink has them, so the client may forget them; with any other answer, or none, it sends them
again. Messages are named after the header `Idempotency-Key` where the client sends one: a second request with the key of
one that is under way waits for the same messages, and a sink that stores by id stores them once.

```toml
[stages.read]
plugin = "http_listen"
options = { address = "127.0.0.1:8080", path = "/events" }
```

```sh
curl -d '{"a": 1}' http://127.0.0.1:8080/
printf '{"a": 1}\\n{"a": 2}\\n' | curl -H 'Content-Type: application/x-ndjson' --data-binary @- http://127.0.0.1:8080/
```

| fault | what follows |
|---|---|
| the pipeline is full: `most` messages are under way | 503 with `Retry-After`: the client waits |
| it is not finished within `timeout` | 504; it is still worked on, and may be stored |
| the instance stops, or drains | no new connections; what is under way is answered, or 503 |
| a body that is not JSON, or has no message | 400 with the place |
| a body larger than `max_body` | 413 with the limit; the connection is closed when its rest, at most 64 MiB, is discarded |
| a header that takes longer than `header_timeout`, a body longer than `body_timeout` | 408, and the connection is closed |
| a header larger than 64 KiB | 431, and the connection is closed |
| more than `idle_per_address` connections of one address without a whole request | the one that has been idle longest is closed |
| more than `connections` in all | likewise, of the address with the most |
| a wrong or missing token | 401 |
| another path or method | 404, 405 |
| the address is in use | the stage does not start |

A message that becomes a dead letter is finished, too: it is kept, and need not be sent again. TLS is for a proxy in front
of it: all its clients have one address here, so `idle_per_address` must not be below the connections that it keeps open. Several
instances share the address, and the kernel deals out the connections; each instance has limits of its own. The metric `ended`
counts the connections that were closed for a limit.

**Redelivery.** There is no position: after `kill -9` the clients have no answer, and send again. Give each request an
`Idempotency-Key`, so that what was stored already is stored once.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from zpipe import Context, Duration, Message, Secret, Size, Source, Traits, override
from zpipe.errors import OperatorError
from zpipe_plugins.extras import require
from zpipe_plugins.web.http_connections import Connection, Connections, Limits, most_connections

if TYPE_CHECKING:
    import uvicorn

_CLOSE_S = 2.0
_MOST_DISCARDED = 64 << 20
"""Bytes of a refused request. Closing while a client still sends resets the connection, and the client may never see the answer
(RFC 9112, 9.6)."""
_BACKLOG = 2048
_ACCEPTED_AT_ONCE = 256
"""They are accepted before any of them is counted, so `connections` and these must fit below the limit of file descriptors."""
_NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass
class Options:
    address: Annotated[str, "`HOST:PORT` on which it listens, such as `127.0.0.1:8080`"]
    path: Annotated[str, "the path that takes messages"] = "/"
    token: Annotated[Secret | None, "what clients have to send as `Authorization: Bearer …`"] = None
    insecure: Annotated[bool, "whether an address that others can reach may be without a token"] = False
    most: Annotated[int, "messages under way; beyond, clients are told to wait"] = 1000
    retry_after: Annotated[Duration, "how long they are told to wait, in whole seconds"] = 1.0
    timeout: Annotated[Duration, "for the pipeline to finish a request"] = 60.0
    max_body: Annotated[Size, "of a request"] = 4 << 20
    header_timeout: Annotated[Duration, "for a client to send a header, from connecting or its last answer on"] = 10.0
    body_timeout: Annotated[Duration, "for a client to send a request's body, and to read the answer"] = 60.0
    connections: Annotated[int, "at once, and no more than half of the file descriptors that the process may open"] = (
        2000
    )
    idle_per_address: Annotated[int, "connections of one address (or IPv6 /64) without a whole request"] = 100

    def __post_init__(self) -> None:
        self.place()
        if not self.path.startswith("/"):
            raise ValueError(f"path is {self.path!r}: it must start with /")
        for name in (
            "most",
            "timeout",
            "max_body",
            "header_timeout",
            "body_timeout",
            "connections",
            "idle_per_address",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: allowed is anything above 0")

    def place(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"address is {self.address!r}: allowed is HOST:PORT, such as 127.0.0.1:8080")
        return host.strip("[]"), int(port)

    def is_local(self) -> bool:
        try:
            return ip_address(self.place()[0]).is_loopback
        except ValueError:
            return self.place()[0] == "localhost"


class HttpListen(Source[Options, None]):
    @override
    def check(self, options: Options, config_dir: Path) -> Iterable[tuple[str, str]]:
        require("http_listen", "uvicorn", "httptools")
        if not options.is_local() and options.token is None and not options.insecure:
            yield "address", "can be reached by others: set a `token`, or insecure = true where a proxy asks for one"

    @override
    def traits(self, options: Options, config_dir: Path) -> Traits:
        return Traits(needs_network=True, divides=True)

    @override
    async def open(self, context: Context[Options]) -> None:
        self._requests = _Requests(context)
        self._server = _server(context, self._requests)
        self._socket = _listen(context)
        self._serving: asyncio.Task[None] | None = None

    @override
    async def source(self, context: Context[Options, None]) -> AsyncIterator[Message]:
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        try:
            while True:
                yield await self._requests.next()
        finally:
            self._requests.closing = True
            self._server.should_exit = True

    @override
    async def ack(self, ids: list[str], context: Context[Options, None]) -> None:
        self._requests.finished(ids)

    @override
    async def close(self, context: Context[Options]) -> None:
        self._requests.give_up()
        if self._serving is not None:
            self._server.should_exit = True
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._serving), _CLOSE_S)
        self._socket.close()


def _listen(context: Context[Options]) -> socket.socket:
    host, port = context.options.place()
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if context.instances > 1:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(address)
            made.listen(_BACKLOG)
        except BaseException:
            made.close()
            raise
    except OSError as error:
        raise OperatorError(f"cannot listen on {context.options.address}: {error.strerror}") from None
    return made


def _server(context: Context[Options], requests: _Requests) -> uvicorn.Server:
    import uvicorn  # it takes 60 ms, and `zpipe check` does not need it
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    options = context.options
    limits = Limits(
        header_s=options.header_timeout,
        body_s=options.body_timeout,
        most=most_connections(options.connections),
        receiving=options.idle_per_address,
    )
    connections = Connections(limits, context)
    config = uvicorn.Config(
        requests.answer,
        http=cast("type[asyncio.Protocol]", partial(connections.accept, HttpToolsProtocol)),
        backlog=_ACCEPTED_AT_ONCE,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=None,
    )
    config.load()
    return uvicorn.Server(config)


class _RefusedError(Exception):
    """What a request is answered, if it gives no messages."""

    def __init__(self, status: int, words: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(words)
        self.status = status
        self.headers = headers or {}


class _Requests:
    """The requests under way, and the messages that they wait for. All of it is on the event loop of the stage.

    closing  no more messages are taken;  waiting: how many requests wait for the pipeline
    """

    def __init__(self, context: Context[Options]) -> None:
        self.closing = False
        self.waiting = 0
        self._options = context.options
        self._answers = context.metrics.counter("requests"), context.metrics.counter("refused")
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        token = context.options.token
        self._authorization = f"Bearer {token.reveal()}".encode() if token is not None else b""

    async def next(self) -> Message:
        return await self._messages.get()

    def finished(self, ids: Iterable[str]) -> None:
        for id in ids:
            if (future := self._waiting.pop(id, None)) is not None and not future.done():
                future.set_result(None)

    def give_up(self) -> None:
        """Nothing more is heard of what is still under way."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(_RefusedError(503, "the service stops", self._later()))
                future.exception()  # nobody may be waiting for it any more
        self._waiting.clear()

    # ---- one request

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken, refused = self._answers
        headers = dict(scope["headers"])
        connection: Connection = scope["state"]["connection"]
        connection.reads_body()
        try:
            count = await self._take(scope, headers, receive, connection)
        except _RefusedError as error:
            refused.inc()
            if connection.receiving and _has_body(headers):
                await _refuse_unread(receive, send, error, connection)
                return
            connection.answers()
            await _respond(send, error.status, {"error": str(error)}, error.headers)
        else:
            taken.inc()
            connection.answers()
            await _respond(send, 200, {"messages": count}, {})
        connection.reads_header()

    async def _take(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, connection: Connection) -> int:
        self._check(scope, headers)
        body = await self._body(headers, receive)
        connection.waits()
        payloads = _payloads(body, headers)
        key = headers.get(b"idempotency-key", b"").decode("latin-1") or uuid.uuid4().hex
        ids = [key] if len(payloads) == 1 else [f"{key}:{n}" for n in range(len(payloads))]
        new = [id for id in ids if id not in self._waiting]
        if self.closing:
            raise _RefusedError(503, "the service stops", self._later())
        if self._waiting and len(self._waiting) + len(new) > self._options.most:  # a request alone may be larger
            raise _RefusedError(503, f"{len(self._waiting)} messages are under way", self._later())
        for id, payload in zip(ids, payloads, strict=True):
            if id not in self._waiting:
                self._waiting[id] = asyncio.get_running_loop().create_future()
                self._messages.put_nowait(Message(payload, id=id))
        futures = [self._waiting[id] for id in ids]
        self.waiting += 1
        try:
            async with asyncio.timeout(self._options.timeout):
                await asyncio.gather(*map(asyncio.shield, futures))
        except TimeoutError:
            reason = f"not finished within {self._options.timeout:g} s; it is still worked on"
            raise _RefusedError(504, reason, self._later()) from None
        finally:
            self.waiting -= 1
        return len(payloads)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if scope["path"] != self._options.path:
            raise _RefusedError(404, f"messages go to {self._options.path}")
        if scope["method"] != "POST":
            raise _RefusedError(405, "a message is sent by POST", {"Allow": "POST"})
        given = headers.get(b"authorization", b"")
        if self._authorization and not hmac.compare_digest(given, self._authorization):
            raise _RefusedError(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        length, most = headers.get(b"content-length", b""), self._options.max_body
        if length.isdigit() and int(length) > most:
            raise _RefusedError(413, f"the body has {int(length)} bytes, at most {most} are taken (max_body)")
        body = bytearray()
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise _RefusedError(400, "the client has gone")
            body += event.get("body", b"")
            if len(body) > most:
                raise _RefusedError(413, f"the body has more than {most} bytes, and no more are taken (max_body)")
            if not event.get("more_body"):
                return bytes(body)

    def _later(self) -> dict[str, str]:
        return {"Retry-After": str(max(1, round(self._options.retry_after)))}


def _has_body(headers: dict[bytes, bytes]) -> bool:
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


async def _refuse_unread(receive: Receive, send: Send, error: _RefusedError, connection: Connection) -> None:
    """Answers a request whose body has not come whole, and closes once the client had its chance to read the answer."""
    connection.discards()
    await _respond(send, error.status, {"error": str(error)}, {**error.headers, "Connection": "close"}, more=True)
    left = _MOST_DISCARDED
    while left > 0:
        event = await receive()
        left -= len(event.get("body", b""))
        if not event.get("more_body"):  # that was the end, or the client has gone
            break
    await send({"type": "http.response.body", "body": b""})


async def _respond(
    send: Send, status: int, value: dict[str, Any], headers: dict[str, str], *, more: bool = False
) -> None:
    """`more`: the answer is whole, but the connection stays as it is until a last, empty piece of the body is sent."""
    body = json.dumps(value).encode() + b"\n"
    given = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    listed = [(name.lower().encode(), text.encode()) for name, text in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body, "more_body": more})


def _payloads(body: bytes, headers: dict[bytes, bytes]) -> list[Any]:
    kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if kind not in _NDJSON:
        return [_value(body, "the body")]
    found = [_value(line, f"line {n}") for n, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    if not found:
        raise _RefusedError(400, "the body has no line with a message")
    return found


def _value(text: bytes, place: str) -> Any:
    try:
        value = json.loads(text.decode(), parse_constant=_no_number)
        if b"\\ud" in text.lower():  # half of a surrogate pair can be written in JSON, but in no other encoding
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise _RefusedError(400, f"{place} is not JSON: {error}") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
