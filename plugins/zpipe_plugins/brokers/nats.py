"""`nats`: takes the messages of a JetStream stream by a durable consumer, or publishes one for each message.

As a source it pulls, and acknowledges a message when the pipeline has finished it. The consumer is made if it is not
there; one that is there is taken as it is. Messages are named after their sequence in the stream, so one that is
given again has the same id. As a sink it waits for JetStream's acknowledgement of each message. Headers go both ways.

```toml
[stages.read]
plugin = "nats"
options = { servers = ["nats://nats.example:4222"], stream = "ORDERS", subject = "orders.new.>" }

[stages.publish]
input = "read"
plugin = "nats"
batch = { messages = 500, timeout = "50ms" }
options = { servers = ["nats://nats.example:4222"], subject = "orders.checked.{country}", stream = "CHECKED" }
```

**A redelivery.** The source has a message again when it was killed, `ack_wait` after it had it last; while it lives
it tells JetStream of what it still works on (`+WPI`). The sink publishes with `Nats-Msg-Id`, which is the pipeline's
name and the message's id, so a stream keeps a message that is published again only once, if that is within its
duplicate window (two minutes, unless the stream says otherwise). The plugin's counter `duplicates` has how many those
were.

**Several instances** of a source pull from one consumer, among which JetStream divides the messages. `--fresh`
forgets nothing here: where the consumer stands is kept by NATS (`nats consumer rm`).

| fault | what follows |
|---|---|
| no connection, no answer in `timeout`, no stream for the subject | the stage waits |
| a stream that is full and refuses (`discard new`) | the stage waits |
| wrong credentials, no such stream (of a source) | the stage ends with what NATS says |
| a body that is not of `format` | a dead letter of the source |
| a payload that is not of `format`, a field that cannot be in a subject | a dead letter of the sink |
| a message that is too large for the server or the stream | a dead letter of the sink |
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import zpipe
from zpipe import Reject, Throttled
from zpipe.errors import Answer, OperatorError
from zpipe_plugins.brokers.bodies import WRITE, ReadOptions, WriteOptions, as_text, item, reader
from zpipe_plugins.brokers.deliveries import Deliveries
from zpipe_plugins.brokers.templates import filler, parts_of
from zpipe_plugins.reconnect import AsyncReconnect
from zpipe_plugins.service_plugin import ServiceOptions, ServicePlugin

_COUNT = 512
"""Messages asked for at once."""
_LOOK_S = 0.25
"""So often a source that has nothing looks whether it is connected."""
_PULL_S = 2.0
"""When a request for messages is over for the server, which says so. One that is not heard of after this is made again."""
_CONNECT_S = 5.0
_TOO_LARGE = (10054, 10097)
"""JetStream's codes for a message, or its headers, that are too large for the stream."""


@dataclass(kw_only=True)
class _Connection(ServiceOptions):
    servers: Annotated[list[str], "`nats://HOST:PORT`, or `tls://…`"]
    username: Annotated[str | None, "left out: without one"] = None
    password: Annotated[zpipe.Secret | None, "of that user"] = None
    token: Annotated[zpipe.Secret | None, "in the place of a user"] = None
    credentials: Annotated[Path | None, "a file of credentials (.creds), relative to the config file"] = None
    timeout: Annotated[zpipe.Duration, "for an answer of JetStream"] = 10.0

    def __post_init__(self) -> None:
        if not self.servers or not all(
            server.startswith(("nats://", "tls://", "ws://", "wss://")) for server in self.servers
        ):
            raise ValueError(f"servers is {self.servers!r}: allowed are one or more that start with nats:// or tls://")
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout:g}: allowed is any time above 0")

    @property
    @zpipe.override
    def services(self) -> tuple[str, ...]:
        return tuple(self.servers)


@dataclass(kw_only=True)
class SourceOptions(ReadOptions, _Connection):
    stream: Annotated[str, "its name"]
    consumer: Annotated[str | None, "the name of the durable consumer; left out: PIPELINE-STAGE"] = None
    subject: Annotated[
        str | None, "only messages with this subject, wildcards allowed; for a consumer that is made here"
    ] = None
    start: Annotated[Literal["beginning", "end"], "where a consumer that is made here begins"] = "beginning"
    ack_wait: Annotated[
        zpipe.Duration, "after which what a killed instance had is given again; for a consumer that is made here"
    ] = 30.0
    max_ack_pending: Annotated[int, "on their way at once, over all instances; for a consumer that is made here"] = (
        20_000
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ack_wait < 1:
            raise ValueError(f"ack_wait is {self.ack_wait:g} s: allowed is 1 s or more")


@dataclass(kw_only=True)
class SinkOptions(WriteOptions, _Connection):
    subject: Annotated[str, "where to publish; `{name}` in it stands for that field of the payload"]
    stream: Annotated[str | None, "the stream that must take it; left out: any"] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.subject or set(self.subject).intersection(" *>\t\r\n"):
            raise ValueError(f"subject is {self.subject!r}: allowed is a name without spaces and wildcards")
        parts_of("subject", self.subject)


class NatsSource(ServicePlugin[SourceOptions], zpipe.Source[SourceOptions, str]):
    extra, module = "nats", "nats"
    divides = True

    @zpipe.override
    async def open(self, context: zpipe.Context[SourceOptions]) -> None:
        self._consumer = context.options.consumer or f"{context.pipeline}-{context.stage}"
        self._prefix = len(f"{context.stage}:")
        self._deliveries: Deliveries[str] = Deliveries(times_out=True)
        self._nats = _reconnect(context)
        async with self._nats.use() as link:
            ack_wait = await self._make_consumer(link.jetstream, context.options)
        self._keeping = asyncio.create_task(self._keep(ack_wait / 3))

    @zpipe.override
    async def close(self, context: zpipe.Context[SourceOptions]) -> None:
        self._keeping.cancel()
        await self._nats.close()

    @zpipe.override
    async def source(
        self, context: zpipe.Context[SourceOptions, str]
    ) -> AsyncIterator[zpipe.Message | tuple[str, Any]]:
        options, read = context.options, reader(context.options)
        async with self._nats.use() as link:
            await self._make_consumer(link.jetstream, options)
            async for message in self._pulled(link.client, options):
                position = str(message.metadata.sequence.stream)
                if self._deliveries.take(position, message.reply, again=True):
                    headers = message.headers and {
                        k: v for k, v in message.headers.items() if not k.startswith("Nats-")
                    }
                    yield item(position, read(message.data, partial(_meta, message)), headers)
                else:
                    await self._acknowledge(link.client)

    async def _pulled(self, client: Any, options: SourceOptions) -> AsyncIterator[Any]:
        """The client's own `fetch` waits for a full batch or its end; this one has each message as it comes."""
        arrived: deque[Any] = deque()
        some, inbox, asked = asyncio.Event(), client.new_inbox(), 0
        quiet_since = heard_at = time.monotonic()

        async def arrive(message: Any) -> None:
            arrived.append(message)
            some.set()

        subscription = await client.subscribe(inbox, cb=arrive)
        next_of = f"$JS.API.CONSUMER.MSG.NEXT.{options.stream}.{self._consumer}"
        try:
            while True:
                if time.monotonic() - heard_at > 2 * _PULL_S:
                    asked = 0
                if asked <= _COUNT // 2:
                    heard_at = time.monotonic()
                    pull = {"batch": _COUNT, "expires": int(_PULL_S * 1e9)}
                    await client.publish(next_of, json.dumps(pull).encode(), reply=inbox)
                    asked += _COUNT
                if not arrived:
                    some.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(some.wait(), _LOOK_S)
                    if client.is_closed:
                        raise ConnectionError("the connection to NATS is lost")
                    if options.end_after is not None and time.monotonic() - quiet_since >= options.end_after:
                        return
                while arrived:
                    message, heard_at = arrived.popleft(), time.monotonic()
                    if not message.data and "Status" in (message.headers or ()):
                        asked -= _left_of(message)
                        continue
                    asked -= 1
                    yield message
                    quiet_since = time.monotonic()
        finally:
            with suppress(Exception):
                await subscription.unsubscribe()

    @zpipe.override
    async def ack(self, ids: list[str], context: zpipe.Context[SourceOptions, str]) -> None:
        self._deliveries.finish([id[self._prefix :] for id in ids])
        with suppress(Throttled):  # what is owed is paid when it is given again
            async with self._nats.use() as link:
                await self._acknowledge(link.client)

    async def _acknowledge(self, client: Any) -> None:
        owed = self._deliveries.owed()
        for replies in owed.values():
            for reply in replies:
                await client.publish(reply, b"+ACK")
        self._deliveries.paid(owed)

    async def _keep(self, every_s: float) -> None:
        """Tells JetStream again and again that what is in hand is worked on, so that it is not given to another."""
        while True:
            await asyncio.sleep(every_s)
            with suppress(Throttled):
                async with self._nats.use() as link:
                    for reply in self._deliveries.in_hand():
                        await link.client.publish(reply, b"+WPI")

    async def _make_consumer(self, jetstream: Any, options: SourceOptions) -> float:
        """Its `ack_wait`, in seconds."""
        from nats.js import api, errors

        wanted = api.ConsumerConfig(
            durable_name=self._consumer,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=options.ack_wait,
            max_ack_pending=options.max_ack_pending,
            deliver_policy=api.DeliverPolicy.ALL if options.start == "beginning" else api.DeliverPolicy.NEW,
            filter_subject=options.subject,
        )
        try:
            try:
                found = await jetstream.consumer_info(options.stream, self._consumer)
            except errors.NotFoundError:
                found = await jetstream.add_consumer(options.stream, wanted)
        except errors.ServiceUnavailableError as error:
            raise Throttled(1.0, f"NATS: {error.description or error}") from None
        except errors.APIError as error:
            raise OperatorError(f"NATS refuses: {error.description or error}") from None
        if found.config.ack_policy != api.AckPolicy.EXPLICIT:
            raise OperatorError(
                f"the consumer {self._consumer!r} has not the policy to acknowledge each message (explicit)"
            )
        return float(found.config.ack_wait or options.ack_wait)


class NatsSink(ServicePlugin[SinkOptions], zpipe.Sink[SinkOptions]):
    extra, module = "nats", "nats"

    @zpipe.override
    async def open(self, context: zpipe.Context[SinkOptions]) -> None:
        options = context.options
        self._subject = filler("subject", options.subject, forbidden=" .*>\t\r\n")
        self._write = WRITE[options.format]
        self._nats = _reconnect(context)
        async with self._nats.use():
            pass

    @zpipe.override
    async def close(self, context: zpipe.Context[SinkOptions]) -> None:
        await self._nats.close()

    @zpipe.override
    async def process(self, message: zpipe.Message, context: zpipe.Context[SinkOptions]) -> None:
        for answer in await self._publish([message], context):
            if answer is not None:
                raise answer

    @zpipe.override
    async def process_batch(
        self, messages: list[zpipe.Message], context: zpipe.Context[SinkOptions]
    ) -> list[Answer | None]:
        return await self._publish(messages, context)

    async def _publish(self, messages: list[zpipe.Message], context: zpipe.Context[SinkOptions]) -> list[Answer | None]:
        options, pipeline = context.options, context.pipeline
        answers: list[Answer | None] = [None] * len(messages)
        from nats.errors import MaxPayloadError

        async with self._nats.use() as link:
            waiting: dict[int, asyncio.Future[Any]] = {}
            for index, message in enumerate(messages):
                headers = {**as_text(message.headers), "Nats-Msg-Id": f"{pipeline}:{message.id}"}
                if options.stream is not None:
                    headers["Nats-Expected-Stream"] = options.stream
                try:
                    subject, body = self._subject(message.payload), self._write(message.payload)
                    waiting[index] = await link.acknowledgements.publish(subject, body, headers)
                except Reject as error:
                    answers[index] = error
                except MaxPayloadError as error:
                    answers[index] = Reject(f"NATS refuses: {error}")
            if waiting:
                _, late = await asyncio.wait(waiting.values(), timeout=options.timeout)
                if late:
                    raise TimeoutError(f"NATS has not acknowledged {len(late)} messages in {options.timeout:g} s")
        for index, acknowledged in waiting.items():
            answers[index] = _judged(acknowledged.result(), context)
        return answers


class _Acknowledgements:
    """Publishes, and gives what JetStream answers to each message: the client's own `publish_async` never tells of errors."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0

    async def listen(self) -> None:
        await self._client.subscribe(f"{self._inbox}.*", cb=self._arrived)

    async def publish(self, subject: str, body: bytes, headers: dict[str, str]) -> asyncio.Future[dict[str, Any]]:
        self._number += 1
        reply = f"{self._inbox}.{self._number}"
        answer = self._waiting[reply] = asyncio.get_running_loop().create_future()
        try:
            await self._client.publish(subject, body, reply=reply, headers=headers)
        except BaseException:
            del self._waiting[reply]
            raise
        return answer

    async def _arrived(self, message: Any) -> None:
        if (answer := self._waiting.pop(message.subject, None)) is not None and not answer.done():
            nobody = not message.data and message.headers and message.headers.get("Status") == "503"
            answer.set_result({} if nobody else json.loads(message.data))


def _judged(answered: dict[str, Any], context: zpipe.Context[SinkOptions]) -> Answer | None:
    """What JetStream has answered to a message; nothing, if nobody takes its subject."""
    if not answered:
        return Throttled(1.0, f"NATS: no stream takes {context.options.subject!r}, or JetStream is not there")
    if (error := answered.get("error")) is not None:
        words = f"NATS: {error.get('description')} ({error.get('err_code')})"
        return Reject(words) if error.get("err_code") in _TOO_LARGE else Throttled(1.0, words)
    if answered.get("duplicate"):
        context.metrics.counter("duplicates").inc()
    return None


def _meta(message: Any) -> dict[str, Any]:
    about = message.metadata
    known = {"subject": message.subject, "sequence": about.sequence.stream, "at": about.timestamp.timestamp()}
    return {**known, "deliveries": about.num_delivered, "headers": dict(message.headers or {})}


def _left_of(status: Any) -> int:
    """So many messages of a request do not come, as its end says. Raises ConnectionError where the consumer gives no more."""
    code, words = status.headers["Status"], status.headers.get("Description", "")
    if code == "503" or (
        code == "409" and words.startswith(("Consumer Deleted", "Server Shutdown", "Leadership Change"))
    ):
        raise ConnectionError(f"NATS gives no more: {code} {words}")
    left = status.headers.get("Nats-Pending-Messages", "0")
    return int(left) if left.isdigit() else 0


class _Link(NamedTuple):
    """A connection, what asks for streams and consumers by it, and what publishes by it."""

    client: Any
    jetstream: Any
    acknowledgements: _Acknowledgements


@cache
def _client_class() -> Any:
    from nats.aio.client import Client

    class Guarded(Client):  # type: ignore[misc]
        """Says who asks to no server of tls:// without TLS. The client as it is would, to whoever claims to have none."""

        def _connect_command(self) -> bytes:
            if self._current_server.uri.scheme == "tls" and not self._server_info.get("tls_required"):
                raise ConnectionError("a server has no TLS, and `servers` says tls://: nothing was said to it")
            return super()._connect_command()  # type: ignore[no-any-return]

    if not hasattr(Client, "_connect_command"):
        raise OperatorError("this nats-py is not known, and might say a password in the clear: install another version")
    return Guarded


def _checked(path: Path) -> str:
    """The client reads for ever in a file that has no JWT."""
    if "BEGIN NATS USER JWT" not in path.read_text(encoding="ascii", errors="replace"):
        raise OperatorError(f"credentials: {path} has no JWT of a user; give a .creds file, as nsc makes it")
    return str(path)


def _reconnect(context: zpipe.Context[Any]) -> AsyncReconnect[_Link]:
    from nats import errors

    options: _Connection = context.options

    async def quiet(error: Exception) -> None:
        context.log.debug("NATS: %s", error)  # whoever uses the connection hears of it

    async def connect() -> _Link:
        file = options.credentials
        try:
            client = _client_class()()
            await client.connect(
                options.servers,
                name=f"{context.pipeline}.{context.stage}.{context.instance}",
                user=options.username,
                password=options.password.reveal() if options.password else None,
                token=options.token.reveal() if options.token else None,
                user_credentials=_checked(context.config_dir / file.expanduser()) if file else None,
                allow_reconnect=False,
                connect_timeout=_CONNECT_S,
                error_cb=quiet,
            )
        except errors.AuthorizationError as error:
            raise OperatorError(f"NATS refuses the credentials: {error}") from None
        except errors.Error as error:
            if "authorization" in str(error).lower():
                raise OperatorError(f"NATS refuses the credentials: {error}") from None
            raise
        acknowledgements = _Acknowledgements(client)
        await acknowledgements.listen()
        return _Link(client, client.jetstream(timeout=options.timeout), acknowledgements)

    async def close(link: _Link) -> None:
        with suppress(Exception):  # it is gone already
            await link.client.close()

    faults = (errors.Error, OSError, TimeoutError)
    return AsyncReconnect(connect, close, faults)
