"""`kafka`: takes the messages of topics as a member of a consumer group, or produces one for each message.

As a source it commits to Kafka the offsets that the pipeline has finished, in order, a second behind at most.
Messages are named after topic, partition and offset, so one that is read again has the same id. As a sink it is an
idempotent producer with `acks=all`, and waits until each message is acknowledged. Headers go both ways; the sink adds
the message's id as the header `zpipe-id`.

```toml
[stages.read]
plugin = "kafka"
options = { servers = ["kafka1.example:9092", "kafka2.example:9092"], topics = ["orders"], group = "index" }

[stages.publish]
input = "read"
plugin = "kafka"
batch = { messages = 1000, timeout = "50ms" }
options = { servers = ["kafka1.example:9092", "kafka2.example:9092"], topic = "orders.{country}", key = "{id}" }
```

**A redelivery.** After a kill the source reads again from the committed offsets: what was finished within the last
second, and what was on its way. When the group deals out its partitions anew, what an instance has on its way from
one that it loses is read again by another, with the same ids. The sink's own attempts never make a second message of
one, but a message that is delivered to it again after a kill is produced a second time.

**Several instances** are members of one group, among which Kafka deals out the partitions; give the topic as many as
there are instances. `--fresh` forgets nothing here: offsets are kept by Kafka (`kafka-consumer-groups
--reset-offsets`).

| fault | what follows |
|---|---|
| no broker, no leader, no acknowledgement in `timeout`, too few replicas | the stage waits |
| a topic that is not there (yet) | the stage waits |
| wrong credentials, no permission, a setting that librdkafka does not know | the stage ends with what Kafka says |
| a body that is not of `format` | a dead letter of the source |
| a payload that is not of `format`, a message that is too large or found invalid | a dead letter of the sink |
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import zpipe
from zpipe.errors import Answer, OperatorError
from zpipe_plugins.brokers.bodies import WRITE, ReadOptions, WriteOptions, as_text, item, reader
from zpipe_plugins.brokers.templates import filler, parts_of
from zpipe_plugins.reconnect import Reconnect
from zpipe_plugins.service_plugin import ServiceOptions, ServicePlugin

_COUNT = 512
"""Messages taken from the client at once."""
_LOOK_S = 0.25
"""So long one look for messages takes: a source that is to stop hears of it no later."""
_CONNECT_S = 5.0
_REACH_S = (0.25, 1.0, 4.0)
"""So long each look for a broker waits: a refusal is known at once, and a broker that is far away takes longer to answer."""
_AGAIN_S = 1.0


@dataclass(kw_only=True)
class _Connection(ServiceOptions):
    servers: Annotated[list[str], "`HOST:PORT` of some brokers"]
    security: Annotated[
        Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"], "how to connect (`security.protocol`)"
    ] = "plaintext"
    mechanism: Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], "how to say who connects"] = (
        "SCRAM-SHA-512"
    )
    username: Annotated[str | None, "who connects, with `sasl_…`"] = None
    password: Annotated[zpipe.Secret | None, "of that user"] = None
    settings: Annotated[
        dict[str, str | int | float | bool], "more settings of librdkafka, such as `ssl.ca.location`"
    ] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.servers or not all(self.servers):
            raise ValueError(f"servers is {self.servers!r}: allowed are one or more HOST:PORT")
        if self.security.startswith("sasl") and not (self.username and self.password):
            raise ValueError(f"security is {self.security!r}: it needs username and password")
        if taken := sorted(set(self.settings) & _OURS):
            raise ValueError(f"settings has {taken[0]!r}, which is the plugin's own: leave it out")

    @property
    @zpipe.override
    def services(self) -> tuple[str, ...]:
        return tuple(one if "://" in one else f"kafka://{one}" for one in self.servers)

    def configuration(self, client: str, log: logging.Logger) -> dict[str, Any]:
        quiet = log.getChild("librdkafka")  # what it logs of lost connections, the stage says
        quiet.setLevel(logging.CRITICAL)
        found: dict[str, Any] = {
            "client.id": client,
            "security.protocol": self.security,
            "reconnect.backoff.max.ms": 1000,
            "logger": quiet,
            **self.settings,
            "bootstrap.servers": ",".join(self.servers),
        }
        if self.username and self.password:
            found |= {
                "sasl.mechanism": self.mechanism,
                "sasl.username": self.username,
                "sasl.password": self.password.reveal(),
            }
        return found


_OURS = {
    "bootstrap.servers",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "acks",
    "sasl.password",
}
"""Settings that are made of options, or without which the plugin would lose messages."""


@dataclass(kw_only=True)
class SourceOptions(ReadOptions, _Connection):
    topics: Annotated[list[str], "their names; one that begins with `^` is a regular expression"]
    group: Annotated[str | None, "the consumer group; left out: PIPELINE.STAGE"] = None
    start: Annotated[Literal["beginning", "end"], "where a group that has no offsets begins"] = "beginning"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.topics or not all(self.topics):
            raise ValueError(f"topics is {self.topics!r}: allowed are one or more names")


@dataclass(kw_only=True)
class SinkOptions(WriteOptions, _Connection):
    topic: Annotated[str, "where to; `{name}` in it stands for that field of the payload"]
    key: Annotated[
        str | None, "messages of one key go to one partition; `{name}` as in `topic`; left out: without keys"
    ] = None
    timeout: Annotated[zpipe.Duration, "for a message to be acknowledged, with all attempts of the client's"] = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        parts_of("topic", self.topic)
        if self.key is not None:
            parts_of("key", self.key)
        if not self.topic:
            raise ValueError("topic is empty: allowed is the name of a topic")
        if self.timeout < 1:
            raise ValueError(f"timeout is {self.timeout:g} s: allowed is 1 s or more")


class _LostError(Exception):
    """No broker can be reached."""


class _Run:
    """Messages of one partition that were yielded one after the other. The source's thread lengthens the last one."""

    __slots__ = ("after", "first", "partition", "prefix")

    def __init__(self, topic: str, partition: int, first: int) -> None:
        self.partition = (topic, partition)
        self.prefix = f"{topic}:{partition}:"
        self.first = self.after = first

    def has(self, partition: tuple[str, int], offset: int) -> bool:
        """Among those that are not committed."""
        return partition == self.partition and self.first <= offset < self.after


def _place_of(position: str) -> tuple[tuple[str, int], int]:
    topic, partition, offset = position.rsplit(":", 2)
    return (topic, int(partition)), int(offset)


class KafkaSource(ServicePlugin[SourceOptions], zpipe.Source[SourceOptions, str]):
    extra, module = "kafka", "confluent_kafka"
    divides = True

    @zpipe.override
    def open(self, context: zpipe.Context[SourceOptions]) -> None:
        self._errors: list[Any] = []
        self._runs: deque[_Run] = deque()
        self._next: dict[tuple[str, int], int] = {}
        self._began_at: list[str | None] | None = None
        self._kafka = Reconnect(lambda: self._connect(context), lambda consumer: consumer.close(), (_LostError,))
        with self._kafka.use():
            pass

    @zpipe.override
    def close(self, context: zpipe.Context[SourceOptions]) -> None:
        self._kafka.close()

    def _connect(self, context: zpipe.Context[SourceOptions]) -> Any:
        from confluent_kafka import Consumer

        options = context.options
        settings = {
            "group.id": options.group or f"{context.pipeline}.{context.stage}",
            "auto.offset.reset": "earliest" if options.start == "beginning" else "latest",
            "enable.auto.commit": True,  # of what `commit` stores
            "auto.commit.interval.ms": 1000,
            "enable.auto.offset.store": False,
            "error_cb": self._errors.append,
        }
        client = f"{context.pipeline}.{context.stage}.{context.instance}"
        with _judged():
            consumer = Consumer(settings | options.configuration(client, context.log))
            try:
                _reach(consumer, self._errors)
                consumer.subscribe(options.topics, on_assign=self._assigned)
            except BaseException:
                consumer.close()
                raise
        self._consumer = consumer
        return consumer

    def _assigned(self, consumer: Any, partitions: list[Any]) -> None:
        """What this instance has taken already, and not committed, is not taken again."""
        with suppress(Exception):  # without an answer it is read again, with the same ids
            committed = {(one.topic, one.partition): one.offset for one in consumer.committed(partitions, _CONNECT_S)}
            for partition in partitions:
                key = partition.topic, partition.partition
                if self._next.get(key, 0) > max(
                    0, committed.get(key, 0)
                ):  # a group without an offset has a negative one
                    partition.offset = self._next[key]
        consumer.assign(partitions)

    @zpipe.override
    def source(self, context: zpipe.Context[SourceOptions, str]) -> Iterator[zpipe.Message | tuple[str, Any]]:
        options, read, quiet_since = context.options, reader(context.options), time.monotonic()
        if self._began_at is None:  # opened again, it goes on after what it has given in this life
            self._began_at = [context.position]
        run: _Run | None = None
        with self._kafka.use() as consumer:
            while not context.stopping.is_set():
                found = self._taken(consumer)
                for message in found:
                    topic, partition, offset = message.topic(), message.partition(), message.offset()
                    if run is None or (topic, partition) != run.partition or offset < run.after:
                        run = _Run(topic, partition, offset)
                        self._runs.append(run)
                    run.after = self._next[run.partition] = offset + 1
                    payload = read(message.value() or b"", partial(_meta, message))
                    headers = {name: _text(value) for name, value in message.headers() or () if name != "zpipe-id"}
                    yield item(f"{run.prefix}{offset}", payload, headers)
                if found:
                    quiet_since = time.monotonic()
                elif options.end_after is not None and time.monotonic() - quiet_since >= options.end_after:
                    return

    def _taken(self, consumer: Any) -> list[Any]:
        with _judged():
            found = consumer.consume(_COUNT, _LOOK_S)
            errors, self._errors[:] = [*self._errors, *(m.error() for m in found if m.error())], ()
            for error in errors:
                _judge(error)
        return [message for message in found if not message.error()]

    @zpipe.override
    def commit(self, position: str, context: zpipe.Context[SourceOptions, str]) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        if self._began_at == [position]:
            return  # of an earlier life: Kafka knows of it
        partition, offset = _place_of(position)
        finished: dict[tuple[str, int], int] = {}
        if not any(run.has(partition, offset) for run in list(self._runs)):
            return
        while not self._runs[0].has(partition, offset):
            run = self._runs.popleft()
            finished[run.partition] = run.after
        self._runs[0].first = finished[partition] = offset + 1
        for (topic, number), after in finished.items():
            with suppress(KafkaException):  # another instance has this partition now, and reads it from the last commit
                self._consumer.store_offsets(offsets=[TopicPartition(topic, number, after)])


class KafkaSink(ServicePlugin[SinkOptions], zpipe.Sink[SinkOptions]):
    extra, module = "kafka", "confluent_kafka"

    @zpipe.override
    def open(self, context: zpipe.Context[SinkOptions]) -> None:
        options = context.options
        self._errors: list[Any] = []
        self._topic = filler("topic", options.topic)
        self._key: Callable[[Any], str | None] = (
            filler("key", options.key) if options.key is not None else lambda payload: None
        )
        self._write = WRITE[options.format]
        self._kafka = Reconnect(lambda: self._connect(context), _give_up, (_LostError,))
        with self._kafka.use():
            pass

    @zpipe.override
    def close(self, context: zpipe.Context[SinkOptions]) -> None:
        self._kafka.close()

    def _connect(self, context: zpipe.Context[SinkOptions]) -> Any:
        from confluent_kafka import Producer

        options = context.options
        settings = {
            "enable.idempotence": True,
            "acks": "all",
            "delivery.timeout.ms": int(options.timeout * 1000),
            "linger.ms": 5,
            "error_cb": self._errors.append,
        }
        client = f"{context.pipeline}.{context.stage}.{context.instance}"
        with _judged():
            producer = Producer(settings | options.configuration(client, context.log))
            _reach(producer, self._errors)
        return producer

    @zpipe.override
    def process(self, message: zpipe.Message, context: zpipe.Context[SinkOptions]) -> None:
        for answer in self.process_batch([message], context):
            if answer is not None:
                raise answer

    @zpipe.override
    def process_batch(self, messages: list[zpipe.Message], context: zpipe.Context[SinkOptions]) -> list[Answer | None]:
        answers: list[Answer | None] = [None] * len(messages)
        with self._kafka.use() as producer:
            deliveries = [_Delivery() for _ in messages]
            for index, message in enumerate(messages):
                try:
                    self._produce(producer, message, deliveries[index])
                except Answer as error:
                    answers[index] = error
            producer.flush(context.options.timeout + 1.0)
            for index, delivery in enumerate(deliveries):
                if answers[index] is None:
                    answers[index] = delivery.answer(self._errors)
            self._errors.clear()
        return answers

    def _produce(self, producer: Any, message: zpipe.Message, delivered: _Delivery) -> None:
        from confluent_kafka import KafkaException

        payload = message.payload
        body, topic, key = self._write(payload), self._topic(payload), self._key(payload)
        headers = {**as_text(message.headers), "zpipe-id": message.id}
        while True:
            try:
                producer.produce(topic, body, key=key, headers=headers, on_delivery=delivered)
                return
            except BufferError:  # so many wait to be sent that there is no room for another
                if not producer.poll(_AGAIN_S):
                    raise zpipe.Throttled(_AGAIN_S, "Kafka: the client's queue is full") from None
            except KafkaException as error:
                raise _answer(error.args[0]) from None


class _Delivery:
    """What became of one message that was produced."""

    def __init__(self) -> None:
        self.over = False
        self.error: Any = None

    def __call__(self, error: Any, message: Any) -> None:
        self.over, self.error = True, error

    def answer(self, errors: list[Any]) -> Answer | None:
        if not self.over:
            raise _LostError("no acknowledgement in time")
        if self.error is None:
            return None
        for error in errors:
            _judge(error, lost=False)
        if self.error.fatal():
            raise _LostError(self.error.str())
        return _answer(self.error)


def _answer(error: Any) -> Answer:
    from confluent_kafka import KafkaError as E

    words = f"Kafka: {error.str()} ({error.name()})"
    of_the_message = (E.MSG_SIZE_TOO_LARGE, E.INVALID_MSG, E.INVALID_RECORD, E.INVALID_TIMESTAMP, E.TOPIC_EXCEPTION)
    if error.code() in (*of_the_message, E._INVALID_ARG):
        return zpipe.Reject(words)
    if error.code() in _refusals():
        raise OperatorError(f"Kafka refuses: {error.str()} ({error.name()})")
    return zpipe.Throttled(_AGAIN_S, words)


def _refusals() -> tuple[int, ...]:
    from confluent_kafka import KafkaError as E

    denied = (E.TOPIC_AUTHORIZATION_FAILED, E.GROUP_AUTHORIZATION_FAILED, E.CLUSTER_AUTHORIZATION_FAILED)
    return (*denied, E.SASL_AUTHENTICATION_FAILED, E._AUTHENTICATION, E._UNSUPPORTED_FEATURE, E._SSL)


def _judge(error: Any, lost: bool = True) -> None:
    """Of an error that is no message's: raises what it means for the stage, if anything."""
    from confluent_kafka import KafkaError as E

    if error.code() in _refusals():
        raise OperatorError(f"Kafka refuses: {error.str()} ({error.name()})")
    if lost and (error.code() == E._ALL_BROKERS_DOWN or error.fatal()):
        raise _LostError(f"Kafka: {error.str()}")


@contextmanager
def _judged() -> Iterator[None]:
    from confluent_kafka import KafkaException

    try:
        yield
    except KafkaException as error:
        found = error.args[0]
        _judge(found)
        from confluent_kafka import KafkaError as E

        if found.code() == E._INVALID_ARG:
            raise OperatorError(f"settings: {found.str()}") from None
        raise _LostError(f"Kafka: {found.str()} ({found.name()})") from None


def _reach(client: Any, errors: list[Any]) -> None:
    """Raises if no broker answers, with the reason that librdkafka gave meanwhile."""
    from confluent_kafka import KafkaException

    errors.clear()
    for wait_s in _REACH_S:
        try:
            client.list_topics(timeout=wait_s)
            return
        except KafkaException:
            client.poll(0)
            for error in errors:
                _judge(error)
            if wait_s == _REACH_S[-1]:
                raise


def _give_up(producer: Any) -> None:
    """What it still has is delivered again by the pipeline."""
    producer.purge()
    producer.flush(0.1)


def _meta(message: Any) -> dict[str, Any]:
    kind, at = message.timestamp()
    known = {"topic": message.topic(), "partition": message.partition(), "offset": message.offset()}
    headers = {name: _text(value) for name, value in message.headers() or ()}
    key = message.key()
    return {
        **known,
        "key": _text(key) if key is not None else None,
        "at": at / 1000 if kind else None,
        "headers": headers,
    }


def _text(value: bytes | str | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""
