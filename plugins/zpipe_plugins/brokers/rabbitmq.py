"""`rabbitmq`: takes the messages of a queue, or publishes one for each message to an exchange (AMQP 0-9-1).

As a source it acknowledges each message when the pipeline has finished it, with up to `prefetch` on their way.
Messages are named after their property `message_id`; one without gets a name that is its own only until it is given
again. As a sink it publishes persistent messages, with the message's id as `message_id`, and waits until RabbitMQ has
confirmed each. Headers go both ways.

```toml
[stages.read]
plugin = "rabbitmq"
options = { url = "amqps://rabbit.example", username = "pipe", password = "${RABBIT_PASSWORD}", queue = "orders" }

[stages.publish]
input = "read"
plugin = "rabbitmq"
batch = { messages = 500, timeout = "50ms" }
options = { url = "amqp://127.0.0.1/shop", exchange = "checked", routing_key = "{country}" }
```

**A redelivery.** RabbitMQ gives again what an instance had not acknowledged when it was killed or its connection was
lost, at once and to any consumer. With a `message_id` it has the same id again, so a sink that writes by id or key
stores it once; what is still on its way through this instance is not taken twice. The sink publishes a message that
is delivered again a second time, with the same `message_id`.

**Several instances** consume from one queue, among which RabbitMQ divides the messages. `--fresh` forgets nothing
here: what is acknowledged is no longer in the queue.

| fault | what follows |
|---|---|
| no connection, no confirmation in `timeout`, as in an alarm for memory or disk | the stage waits |
| a full queue that refuses (`reject-publish`) | the stage waits |
| wrong credentials, no such queue or exchange, no permission | the stage ends with what RabbitMQ says |
| a body that is not of `format` | a dead letter of the source |
| a payload that is not of `format`, a message that no queue takes or that is too large | a dead letter of the sink |
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import zpipe
from zpipe.errors import Answer, OperatorError
from zpipe_plugins.brokers.bodies import WRITE, ReadOptions, WriteOptions, item, reader
from zpipe_plugins.brokers.deliveries import Deliveries
from zpipe_plugins.brokers.templates import filler, parts_of
from zpipe_plugins.reconnect import AsyncReconnect
from zpipe_plugins.service_plugin import ServiceOptions, ServicePlugin

_LOOK_S = 0.25
"""So often a source that has nothing looks whether it is connected."""
_CONNECT_S = 10.0
_CONTENT_TYPES = {"json": "application/json", "text": "text/plain; charset=utf-8", "bytes": "application/octet-stream"}


@dataclass(kw_only=True)
class _Connection(ServiceOptions):
    url: Annotated[str, "`amqp://HOST:PORT/VHOST`, or `amqps://…` with TLS; `%2F` is the vhost `/`, as is none"] = (
        "amqp://127.0.0.1:5672/"
    )
    username: Annotated[str, "who connects"] = "guest"
    password: Annotated[zpipe.Secret | None, "of that user; left out: that of `guest`"] = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("amqp://", "amqps://")):
            raise ValueError(f"url is {self.url!r}: it must start with amqp:// or amqps://")

    @property
    @zpipe.override
    def services(self) -> tuple[str, ...]:
        return (self.url,)


@dataclass(kw_only=True)
class SourceOptions(ReadOptions, _Connection):
    queue: Annotated[str, "its name"]
    declare: Annotated[
        Literal["no", "classic", "quorum"], "makes the queue, durable and of this type, if it is not there"
    ] = "no"
    prefetch: Annotated[int, "on their way through an instance at once, 1 to 65535"] = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.prefetch <= 65535:
            raise ValueError(f"prefetch is {self.prefetch}: allowed is 1 to 65535")


@dataclass(kw_only=True)
class SinkOptions(WriteOptions, _Connection):
    exchange: Annotated[str, "its name; empty: the default one, whose routing keys are names of queues"] = ""
    routing_key: Annotated[str, "`{name}` in it stands for that field of the payload"]
    timeout: Annotated[zpipe.Duration, "for the confirmations of a batch"] = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        parts_of("routing_key", self.routing_key)
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout:g}: allowed is any time above 0")


class RabbitmqSource(ServicePlugin[SourceOptions], zpipe.Source[SourceOptions, str]):
    extra, module = "rabbitmq", "aio_pika"
    divides = True

    @zpipe.override
    async def open(self, context: zpipe.Context[SourceOptions]) -> None:
        self._prefix = len(f"{context.stage}:")
        self._deliveries: Deliveries[Any] = Deliveries()
        self._unnamed = 0
        self._channel: Any = None
        self._rabbit = _reconnect(context)
        async with self._rabbit.use() as link:
            with _judged():
                await _queue(link.channel, context.options)

    @zpipe.override
    async def close(self, context: zpipe.Context[SourceOptions]) -> None:
        await self._rabbit.close()

    @zpipe.override
    async def source(
        self, context: zpipe.Context[SourceOptions, str]
    ) -> AsyncIterator[zpipe.Message | tuple[str, Any]]:
        options, read = context.options, reader(context.options)
        async with self._rabbit.use() as link:
            self._deliveries.disconnected()  # what another channel has given is given again
            self._channel, self._acked = link.channel, _AckedTags()
            async for message in self._consumed(link.channel, options):
                position = message.message_id or f"{context.incarnation}-{self._number()}"
                if self._deliveries.take(position, message.delivery_tag, again=bool(message.redelivered)):
                    yield item(position, read(message.body, partial(_meta, message)), message.headers)
                else:
                    await self._acknowledge()

    async def _consumed(self, channel: Any, options: SourceOptions) -> AsyncIterator[Any]:
        arrived: deque[Any] = deque()
        some, quiet_since = asyncio.Event(), time.monotonic()

        async def arrive(message: Any) -> None:
            arrived.append(message)
            some.set()

        with _judged():
            await channel.set_qos(prefetch_count=options.prefetch)
            queue = await _queue(channel, options)
            tag = await queue.consume(arrive)
        try:
            while True:
                if not arrived:
                    some.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(some.wait(), _LOOK_S)
                    if channel.is_closed:
                        raise ConnectionError("the connection to RabbitMQ is lost")
                    if options.end_after is not None and time.monotonic() - quiet_since >= options.end_after:
                        return
                while arrived:
                    yield arrived.popleft()
                    quiet_since = time.monotonic()
        finally:
            with suppress(Exception):
                await queue.cancel(tag)

    def _number(self) -> int:
        self._unnamed += 1
        return self._unnamed

    @zpipe.override
    async def ack(self, ids: list[str], context: zpipe.Context[SourceOptions, str]) -> None:
        self._deliveries.finish([id[self._prefix :] for id in ids])
        with suppress(zpipe.Throttled):  # what is owed is paid when it is given again
            await self._acknowledge()

    async def _acknowledge(self) -> None:
        owed = self._deliveries.owed()
        tags = sorted(tag for tags in owed.values() for tag in tags)
        async with self._rabbit.use() as link:
            if link.channel is not self._channel:
                return  # it was lost, and so were the tags
            channel = await link.channel.get_underlay_channel()
            for tag, multiple in self._acked.acks(tags):
                await channel.basic_ack(tag, multiple=multiple, wait=False)
        self._deliveries.paid(owed)


class _AckedTags:
    """Delivery tags of one channel, which begin at 1. Most are acknowledged many at once, as most are finished in order."""

    def __init__(self) -> None:
        self._all_to = 0
        self._beyond: set[int] = set()

    def acks(self, tags: list[int]) -> Iterator[tuple[int, bool]]:
        """The acknowledgements, as (tag, it and all before), for tags in order that have none yet."""
        self._beyond.update(tags)
        while self._all_to + 1 in self._beyond:
            self._all_to += 1
            self._beyond.remove(self._all_to)
        within = [tag for tag in tags if tag <= self._all_to]
        if within:
            yield (
                within[-1],
                True,
            )  # `_all_to` itself may be acknowledged already, and RabbitMQ refuses a tag that it does not know
        for tag in tags[len(within) :]:
            yield tag, False


class RabbitmqSink(ServicePlugin[SinkOptions], zpipe.Sink[SinkOptions]):
    extra, module = "rabbitmq", "aio_pika"

    @zpipe.override
    async def open(self, context: zpipe.Context[SinkOptions]) -> None:
        options = context.options
        self._routing_key = filler("routing_key", options.routing_key)
        self._write = WRITE[options.format]
        self._rabbit = _reconnect(context)
        async with self._rabbit.use():
            pass

    @zpipe.override
    async def close(self, context: zpipe.Context[SinkOptions]) -> None:
        await self._rabbit.close()

    @zpipe.override
    async def process(self, message: zpipe.Message, context: zpipe.Context[SinkOptions]) -> None:
        for answer in await self._publish([message], context.options):
            if answer is not None:
                raise answer

    @zpipe.override
    async def process_batch(
        self, messages: list[zpipe.Message], context: zpipe.Context[SinkOptions]
    ) -> list[Answer | None]:
        return await self._publish(messages, context.options)

    async def _publish(self, messages: list[zpipe.Message], options: SinkOptions) -> list[Answer | None]:
        answers: list[Answer | None] = [None] * len(messages)
        async with self._rabbit.use() as link:
            waiting: dict[int, Any] = {}
            for index, message in enumerate(messages):
                try:
                    waiting[index] = self._sent(link, message, options)
                except zpipe.Reject as error:
                    answers[index] = error
            async with asyncio.timeout(options.timeout):
                outcomes = await asyncio.gather(*waiting.values(), return_exceptions=True)
            for index, outcome in zip(waiting, outcomes, strict=True):
                answers[index] = _answer(outcome, alone=len(messages) == 1)
        return answers

    def _sent(self, link: _Link, message: zpipe.Message, options: SinkOptions) -> Any:
        """Waits for the confirmation."""
        from aio_pika import DeliveryMode, Message

        body = Message(
            self._write(message.payload),
            headers=message.headers or {},
            message_id=message.id,
            content_type=_CONTENT_TYPES[options.format],
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        return link.exchange.publish(body, self._routing_key(message.payload), mandatory=True)


async def _queue(channel: Any, options: SourceOptions) -> Any:
    if options.declare == "no":
        return await channel.get_queue(options.queue, ensure=True)
    return await channel.declare_queue(options.queue, durable=True, arguments={"x-queue-type": options.declare})


@contextmanager
def _judged() -> Iterator[None]:
    """What RabbitMQ refuses is for a person to put right."""
    from aio_pika import exceptions
    from aiormq.exceptions import ChannelAccessRefused

    try:
        yield
    except (exceptions.AuthenticationError, exceptions.ProbableAuthenticationError) as error:
        raise OperatorError(f"RabbitMQ refuses the credentials: {error}") from None
    except (
        ChannelAccessRefused,
        exceptions.ChannelNotFoundEntity,
        exceptions.ChannelPreconditionFailed,
    ) as error:
        raise OperatorError(f"RabbitMQ refuses: {error}") from None


def _answer(outcome: Any, alone: bool) -> Answer | None:
    """What became of a message that was published."""
    from aio_pika import exceptions

    if isinstance(outcome, exceptions.PublishError):
        return zpipe.Reject(f"RabbitMQ gave it back, no queue takes it: {outcome}")
    if isinstance(outcome, exceptions.DeliveryError):
        return zpipe.Throttled(1.0, "RabbitMQ does not take it (basic.nack), as a queue that is full does")
    if isinstance(outcome, exceptions.ChannelPreconditionFailed) and alone:
        return zpipe.Reject(f"RabbitMQ refuses: {outcome}")  # not alone: the batch is halved until it is
    if isinstance(outcome, BaseException):
        with _judged():
            raise outcome
    return None


def _meta(message: Any) -> dict[str, Any]:
    known = {"exchange": message.exchange, "routing_key": message.routing_key, "redelivered": bool(message.redelivered)}
    more = {"message_id": message.message_id, "type": message.type, "content_type": message.content_type}
    at = message.timestamp.timestamp() if message.timestamp else None
    return {**known, **more, "at": at, "headers": dict(message.headers or {})}


class _Link(NamedTuple):
    connection: Any
    channel: Any
    exchange: Any


def _reconnect(context: zpipe.Context[Any]) -> AsyncReconnect[_Link]:
    import aio_pika
    from yarl import URL

    options: _Connection = context.options

    async def connect() -> _Link:
        password = options.password.reveal() if options.password else "guest"
        url = URL(options.url).with_user(options.username).with_password(password)
        with _judged():
            name = f"{context.pipeline}.{context.stage}.{context.instance}"
            connection = await aio_pika.connect(url, timeout=_CONNECT_S, client_properties={"connection_name": name})
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            exchange = channel.default_exchange
            if isinstance(options, SinkOptions) and options.exchange:
                exchange = await channel.get_exchange(options.exchange, ensure=True)
        return _Link(connection, channel, exchange)

    async def close(link: _Link) -> None:
        with suppress(Exception):  # it is gone already
            await link.connection.close()

    from aio_pika import exceptions

    # The last is what a channel raises whose connection is lost.
    faults = (exceptions.AMQPError, OSError, TimeoutError, exceptions.ChannelInvalidStateError)
    return AsyncReconnect(connect, close, faults)
