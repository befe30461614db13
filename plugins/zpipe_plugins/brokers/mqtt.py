"""`mqtt`: takes what is published to topics, or publishes a message for each message (MQTT 5, QoS 1).

As a source it has a persistent session: while it is away, the broker keeps what is published to its topics, up to
`session`. Each message is acknowledged (PUBACK) when the pipeline has finished it, in the order in which they came,
as MQTT requires. As a sink it waits until the broker has acknowledged each. A message's headers are user properties,
both ways; the sink adds the message's id as `zpipe-id`, after which the source names its messages. How many are on
their way at once is for the broker to say: Mosquitto has 20 (`max_inflight_messages`), and keeps 1000 for a session
that is away or slow (`max_queued_messages`); set both to 0 to lose none.

```toml
[stages.read]
plugin = "mqtt"
options = { url = "mqtts://mqtt.example", username = "pipe", password = "${MQTT_PASSWORD}", topics = ["sensors/+/temperature"] }

[stages.publish]
input = "read"
plugin = "mqtt"
batch = { messages = 200, timeout = "50ms" }
options = { url = "mqtts://mqtt.example", username = "pipe", password = "${MQTT_PASSWORD}", topic = "alarms/{room}" }
```

**A redelivery.** The broker gives again what an instance had not acknowledged when it was killed or its connection
was lost. A message with a `zpipe-id` has the same id again, so a sink that writes by id stores it once; any other has
a new one. The sink publishes a message that is delivered to it again a second time, with the same `zpipe-id`.

**Several instances** read shared subscriptions of one name (`$share/GROUP/…`), among which the broker divides the
messages. With one instance there is a plain subscription. `--fresh` forgets nothing here: the session is kept by the
broker.

| fault | what follows |
|---|---|
| no connection, no acknowledgement in `timeout`, a broker that is busy | the stage waits |
| a broker that refuses for its quota (0x97) or without a reason (0x80, 0x83) | the stage waits |
| wrong credentials, no permission to connect or subscribe | the stage ends with what the broker says |
| a body that is not of `format` | a dead letter of the source |
| a payload that is not of `format`, a topic that is invalid or forbidden | a dead letter of the sink |
| a message that is too large for the broker | a dead letter of the sink |
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlsplit

import zpipe
from zpipe.errors import Answer, OperatorError
from zpipe_plugins.brokers.bodies import WRITE, ReadOptions, WriteOptions, as_text, item, reader
from zpipe_plugins.brokers.templates import filler, parts_of
from zpipe_plugins.reconnect import Reconnect
from zpipe_plugins.service_plugin import ServiceOptions, ServicePlugin

_LOOK_S = 0.25
"""So often a source that has nothing looks whether it is connected, and whether it is to stop."""
_CONNECT_S = 10.0
_MOST_BYTES = 65_535
"""Of a text in MQTT."""
_KEEPALIVE_S = 30
_RECEIVE = 65535
"""Unacknowledged messages that a broker may have given at once, if it wants to."""
_ID = "zpipe-id"
_REFUSED = (0x86, 0x87, 0x85, 0x8A, 0x8C)
"""Reasons of a broker that only a person can change: the credentials, permissions, the client's name, a ban."""
_OF_THE_MESSAGE = (0x87, 0x90, 0x95, 0x99, 0x9B)
"""Reasons that are about one message: not authorized for its topic, its topic, its size, its payload, its QoS."""


class _LostError(Exception):
    """The connection does not work."""


@dataclass(kw_only=True)
class _Connection(ServiceOptions):
    url: Annotated[str, "`mqtt://HOST:PORT`, or `mqtts://…` with TLS"] = "mqtt://127.0.0.1:1883"
    username: Annotated[str | None, "left out: without one"] = None
    password: Annotated[zpipe.Secret | None, "of that user"] = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("mqtt://", "mqtts://")) or not urlsplit(self.url).hostname:
            raise ValueError(f"url is {self.url!r}: it must start with mqtt:// or mqtts://, and a host")

    @property
    @zpipe.override
    def services(self) -> tuple[str, ...]:
        return (self.url,)


@dataclass(kw_only=True)
class SourceOptions(ReadOptions, _Connection):
    topics: Annotated[list[str], "what to subscribe to, with the wildcards `+` and `#`"]
    client_id: Annotated[str | None, "names the session; left out: PIPELINE.STAGE.INSTANCE"] = None
    group: Annotated[str | None, "of the shared subscriptions of several instances; left out: PIPELINE.STAGE"] = None
    session: Annotated[zpipe.Duration, "so long the broker keeps the session of one that is away"] = 86_400.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.topics or not all(self.topics):
            raise ValueError(f"topics is {self.topics!r}: allowed are one or more topics")


@dataclass(kw_only=True)
class SinkOptions(WriteOptions, _Connection):
    topic: Annotated[str, "where to publish; `{name}` in it stands for that field of the payload"]
    retain: Annotated[bool, "the broker keeps the last message of each topic for who subscribes later"] = False
    timeout: Annotated[zpipe.Duration, "for the acknowledgements of a batch"] = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        parts_of("topic", self.topic)
        if not self.topic or set(self.topic).intersection("+#"):
            raise ValueError(f"topic is {self.topic!r}: allowed is a topic without wildcards")
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout:g}: allowed is any time above 0")


class MqttSource(ServicePlugin[SourceOptions], zpipe.Source[SourceOptions, str]):
    extra, module = "mqtt", "paho"
    divides = True

    @zpipe.override
    def open(self, context: zpipe.Context[SourceOptions]) -> None:
        self._prefix = len(f"{context.stage}:")
        self._packets = _Packets(context.incarnation)
        self._mqtt = Reconnect(lambda: self._connect(context), _Client.close, (_LostError, OSError))
        with self._mqtt.use():
            pass

    @zpipe.override
    def close(self, context: zpipe.Context[SourceOptions]) -> None:
        self._mqtt.close()

    def _connect(self, context: zpipe.Context[SourceOptions]) -> _Client:
        options = context.options
        name = options.client_id or f"{context.pipeline}.{context.stage}.{context.instance}"
        client = _Client(options, name, session_s=int(options.session), arrived=self._packets.arrive)
        shared = f"$share/{options.group or f'{context.pipeline}.{context.stage}'}/" if context.instances > 1 else ""
        try:
            client.connect(lambda kept: self._packets.connected(client, kept))
            client.subscribe([f"{shared}{topic}" for topic in options.topics])
        except BaseException:
            client.close()
            raise
        return client

    @zpipe.override
    def source(self, context: zpipe.Context[SourceOptions, str]) -> Iterator[zpipe.Message | tuple[str, Any]]:
        options, read, quiet_since = context.options, reader(context.options), time.monotonic()
        with self._mqtt.use() as client:
            while not context.stopping.is_set():
                if (found := self._packets.take(_LOOK_S)) is not None:
                    position, message = found
                    headers = {name: value for name, value in _properties(message) if name != _ID}
                    yield item(position, read(message.payload, partial(_meta, message)), headers)
                    quiet_since = time.monotonic()
                elif client.lost:
                    raise _LostError(f"the connection to the broker is lost: {client.lost}")
                elif options.end_after is not None and time.monotonic() - quiet_since >= options.end_after:
                    return

    @zpipe.override
    def ack(self, ids: list[str], context: zpipe.Context[SourceOptions, str]) -> None:
        self._packets.finish([id[self._prefix :] for id in ids])


class _Packets:
    """What the broker has given and was not acknowledged, in its order, by packet identifiers, which a session uses anew once
    they are acknowledged. After a lost connection the broker gives the same packets again, if it has kept the session."""

    def __init__(self, incarnation: str) -> None:
        self._incarnation = incarnation
        self._number = 0
        self._client: _Client | None = None
        self._in_hand: dict[int, str] = {}
        self._finished: dict[str, int] = {}
        self._positions: dict[str, int] = {}
        self._given: deque[int] = deque()
        self._new: deque[tuple[str, Any]] = deque()
        self._more = threading.Condition()

    def connected(self, client: _Client, kept: bool) -> None:
        """By a new connection. Without a session that was kept the packets of the one before mean nothing any more."""
        with self._more:
            self._client = client
            self._given.clear()
            if not kept:
                self._in_hand.clear()

    def arrive(self, message: Any) -> None:
        with self._more:
            self._given.append(message.mid)
            if not (message.dup and message.mid in self._in_hand):
                self._number += 1
                id = dict(_properties(message)).get(_ID)
                position = id or f"{self._incarnation}-{self._number}"
                self._in_hand[message.mid] = position
                self._positions[position] = self._positions.get(position, 0) + 1
                self._new.append((position, message))
                self._more.notify()
            else:
                self._acknowledge()

    def take(self, wait_s: float) -> tuple[str, Any] | None:
        with self._more:
            if not self._new:
                self._more.wait(wait_s)
            return self._new.popleft() if self._new else None

    def finish(self, positions: list[str]) -> None:
        with self._more:
            for position in positions:
                self._finished[position] = self._finished.get(position, 0) + 1
            self._acknowledge()

    def _acknowledge(self) -> None:
        """Those at the head that are finished. Where several have one position, all of them must be."""
        while self._client is not None and self._given:
            position = self._in_hand[self._given[0]]
            if self._finished.get(position, 0) < self._positions[position]:
                return
            mid = self._given.popleft()
            del self._in_hand[mid]
            self._client.acknowledge(mid)
            self._positions[position] -= 1
            self._finished[position] -= 1
            if not self._positions[position]:
                del self._positions[position], self._finished[position]


class MqttSink(ServicePlugin[SinkOptions], zpipe.Sink[SinkOptions]):
    extra, module = "mqtt", "paho"

    @zpipe.override
    def open(self, context: zpipe.Context[SinkOptions]) -> None:
        options = context.options
        self._topic = filler("topic", options.topic, forbidden="+#\0")
        self._write = WRITE[options.format]
        self._mqtt = Reconnect(lambda: self._connect(context), _Client.close, (_LostError, OSError))
        with self._mqtt.use():
            pass

    @zpipe.override
    def close(self, context: zpipe.Context[SinkOptions]) -> None:
        self._mqtt.close()

    def _connect(self, context: zpipe.Context[SinkOptions]) -> _Client:
        name = f"{context.pipeline}.{context.stage}.{context.instance}"
        client = _Client(context.options, name, session_s=0, arrived=lambda message: None)
        try:
            client.connect(lambda kept: None)
        except BaseException:
            client.close()
            raise
        return client

    @zpipe.override
    def process(self, message: zpipe.Message, context: zpipe.Context[SinkOptions]) -> None:
        for answer in self.process_batch([message], context):
            if answer is not None:
                raise answer

    @zpipe.override
    def process_batch(self, messages: list[zpipe.Message], context: zpipe.Context[SinkOptions]) -> list[Answer | None]:
        options = context.options
        answers: list[Answer | None] = [None] * len(messages)
        with self._mqtt.use() as client:
            waiting: dict[int, int] = {}
            for index, message in enumerate(messages):
                headers = {**as_text(message.headers), _ID: message.id}
                try:
                    topic, body = self._topic(message.payload), self._write(message.payload)
                    waiting[index] = client.publish(topic, body, options.retain, headers)
                except zpipe.Reject as error:
                    answers[index] = error
            codes = client.acknowledged(len(waiting), options.timeout)
        for index, mid in waiting.items():
            answers[index] = _answer(codes[mid])
        return answers


def _answer(code: Any) -> Answer | None:
    if code.value < 0x80:
        return None
    words = f"MQTT: {code} (0x{code.value:02x})"
    return zpipe.Reject(words) if code.value in _OF_THE_MESSAGE else zpipe.Throttled(1.0, words)


class _UserProperties:
    """Those of a message to be published, in place of paho's `Properties`, of which it asks no more than `pack`. That one builds
    the tables of all properties for each message: 120 µs, as long as all else that is done for a message (measured).

    Raises ValueError for a text that is too long.
    """

    def __init__(self, pairs: Mapping[str, str]) -> None:
        packed = b"".join([b"\x26" + _text(name) + _text(value) for name, value in pairs.items()])
        length, left = bytearray(), len(packed)
        while left > 127:
            length.append(left & 127 | 128)
            left >>= 7
        length.append(left)
        self._packed = bytes(length) + packed

    def pack(self) -> bytes:
        """As MQTT 5 has them (2.2.2)."""
        return self._packed


def _text(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > _MOST_BYTES:
        raise ValueError(f"a header has {len(encoded)} bytes, over the limit of {_MOST_BYTES}")
    return len(encoded).to_bytes(2, "big") + encoded


class _Client:
    """A connection, with a thread of the library's that reads and writes. It is not opened again: `Reconnect` makes another.

    The library is paho itself and not aiomqtt, which wraps it: that acknowledges what has only arrived, and drops the reason
    that a broker gives with its own acknowledgement, such as that it did not take a message.
    """

    def __init__(self, options: _Connection, name: str, session_s: int, arrived: Any) -> None:
        from paho.mqtt import client as paho

        self._paho = paho
        self._session_s = session_s
        self._at = urlsplit(options.url)
        self._arrived = arrived
        self._state = threading.Condition()
        self._connected: Any = None
        self._subscribed: Any = None
        self._codes: dict[int, Any] = {}
        self._expected = _RECEIVE
        self.lost = ""
        more = {"manual_ack": True, "reconnect_on_failure": False}
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5, **more)
        self._client.max_inflight_messages_set(_RECEIVE)
        self._client.max_queued_messages_set(0)
        if options.username is not None:
            self._client.username_pw_set(options.username, options.password.reveal() if options.password else None)
        if self._at.scheme == "mqtts":
            self._client.tls_set()
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_publish = self._on_publish
        self._client.on_message = lambda client, userdata, message: self._arrived(message)

    def connect(self, connected: Any) -> None:
        """`connected` is called on the library's thread, before any message, with whether the broker has kept the session."""
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._session_s
        properties.ReceiveMaximum = _RECEIVE
        self._before_messages = connected
        port = self._at.port or (8883 if self._at.scheme == "mqtts" else 1883)
        clean = not self._session_s
        self._client.connect(self._at.hostname, port, _KEEPALIVE_S, clean_start=clean, properties=properties)
        self._client.loop_start()
        code = self._wait(lambda: self._connected, "the broker does not answer", _CONNECT_S)
        if code.value in _REFUSED:
            raise OperatorError(f"the broker refuses the connection: {code} (0x{code.value:02x})")
        if code.value >= 0x80:
            raise _LostError(f"the broker refuses the connection: {code} (0x{code.value:02x})")

    def subscribe(self, topics: list[str]) -> None:
        self._client.subscribe([(topic, self._paho.SubscribeOptions(qos=1)) for topic in topics])
        codes = self._wait(lambda: self._subscribed, "the broker does not answer", _CONNECT_S)
        for topic, code in zip(topics, codes, strict=True):
            if code.value >= 0x80:
                raise OperatorError(f"the broker refuses the subscription to {topic!r}: {code} (0x{code.value:02x})")

    def publish(self, topic: str, body: bytes, retain: bool, headers: dict[str, str]) -> int:
        try:
            sent = self._client.publish(topic, body, 1, retain, _UserProperties(headers))
        except ValueError as error:  # what the library finds wrong with the topic or the size
            raise zpipe.Reject(f"MQTT: {error}") from None
        return int(sent.mid)

    def acknowledged(self, count: int, timeout_s: float) -> dict[int, Any]:
        """The broker's answers to what was published, by packet identifiers, once there are so many."""
        with self._state:
            self._expected = count
        otherwise = "the broker has not acknowledged all messages"
        self._wait(lambda: len(self._codes) >= count or None, otherwise, timeout_s)
        with self._state:
            codes, self._codes, self._expected = self._codes, {}, _RECEIVE
        return codes

    def acknowledge(self, mid: int) -> None:
        self._client.ack(mid, 1)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _wait(self, what: Any, otherwise: str, timeout_s: float) -> Any:
        with self._state:
            self._state.wait_for(lambda: what() is not None or self.lost, timeout_s)
            if (found := what()) is not None:
                return found
            raise _LostError(f"the connection to the broker is lost: {self.lost}" if self.lost else otherwise)

    # ---- on the library's thread

    def _on_connect(self, client: Any, userdata: Any, flags: Any, code: Any, properties: Any) -> None:
        self._before_messages(flags.session_present)
        with self._state:
            self._connected = code
            self._state.notify_all()

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, code: Any, properties: Any) -> None:
        with self._state:
            self.lost = str(code)
            self._state.notify_all()

    def _on_subscribe(self, client: Any, userdata: Any, mid: int, codes: Any, properties: Any) -> None:
        with self._state:
            self._subscribed = codes
            self._state.notify_all()

    def _on_publish(self, client: Any, userdata: Any, mid: int, code: Any, properties: Any) -> None:
        with self._state:
            self._codes[mid] = code
            if len(self._codes) >= self._expected:  # to wake whoever waits for each would cost more than the message
                self._state.notify_all()


def _properties(message: Any) -> list[tuple[str, str]]:
    return getattr(message.properties, "UserProperty", None) or []


def _meta(message: Any) -> dict[str, Any]:
    return {"topic": message.topic, "retain": bool(message.retain), "headers": dict(_properties(message))}
