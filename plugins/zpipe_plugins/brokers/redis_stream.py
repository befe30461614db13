"""`redis_stream`: takes the entries of a Redis stream as a consumer of a group, or adds one for each message.

As a source it reads with XREADGROUP and acknowledges an entry (XACK) when the pipeline has finished it. The group is
made if it is not there. Its messages are named after their entries, so an entry that is given again has the same id.
As a sink it adds (XADD) all messages of a batch in one transaction.

```toml
[stages.read]
plugin = "redis_stream"
options = { url = "redis://redis.example:6379/0", stream = "orders", group = "index" }

[stages.add]
input = "read"
plugin = "redis_stream"
batch = { messages = 500, timeout = "50ms" }
options = { url = "redis://redis.example:6379/0", stream = "checked", id_field = "id", maxlen = 1000000 }
```

**A redelivery.** What an instance held when it was killed stays pending in its name, and its next life reads that
first. What a consumer that is gone held longer than `claim_idle` is claimed by another one (XAUTOCLAIM); a live
instance tells Redis of what it still works on, so a slow pipeline keeps its entries. Where Redis itself loses its
last writes (`appendfsync everysec`), entries that were acknowledged may come again. The sink adds a message that is
delivered again a second time: give the entries an id with `id_field`, by which whoever reads them can tell.

**Several instances** are consumers of one group, among which Redis divides the entries. `--fresh` forgets nothing
here: where the group stands is kept by Redis (`XGROUP SETID`).

| fault | what follows |
|---|---|
| no connection, a server that loads or cannot write its file | the stage waits |
| a replica, no memory left (`maxmemory`) | the stage waits |
| a wrong password, no permission, a key that is no stream | the stage ends with what Redis says |
| an entry without `field`, a body that is not of `format` | a dead letter of the source |
| a payload that is no map (without `field`), or not of `format` | a dead letter of the sink |
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import zpipe
from zpipe.errors import OperatorError
from zpipe.messages import BadRecord
from zpipe_plugins.brokers.bodies import WRITE, ReadOptions, WriteOptions, reader
from zpipe_plugins.jsontext import json_text
from zpipe_plugins.reconnect import Reconnect
from zpipe_plugins.service_plugin import ServiceOptions, ServicePlugin

_COUNT = 512
"""Entries asked for at once."""
_BLOCK_S = 0.5
"""So long one read waits for entries: a source that is to stop hears of it no later."""
_CONNECT_S = 5.0
_PASSING = ("BUSY", "MISCONF", "NOREPLICAS", "LOADING", "READONLY")
"""Errors of Redis, by a word in them, that pass without anything that is done here; for some the client has types."""


@dataclass(kw_only=True)
class _Connection(ServiceOptions):
    url: Annotated[str, "`redis://HOST:PORT/DATABASE`, `rediss://…` with TLS, or `unix://PATH`"] = (
        "redis://127.0.0.1:6379/0"
    )
    username: Annotated[str | None, "left out: Redis' own `default`"] = None
    password: Annotated[zpipe.Secret | None, "of that user"] = None
    stream: Annotated[str, "the key of the stream"]
    field: Annotated[
        str | None,
        "the field that holds the body, as `format` says; left out: the fields of the payload are those of the entry",
    ] = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError(f"url is {self.url!r}: it must start with redis://, rediss:// or unix://")
        if not self.stream:
            raise ValueError("stream is empty: allowed is the key of a stream")

    @property
    @zpipe.override
    def services(self) -> tuple[str, ...]:
        return (self.url,)


@dataclass(kw_only=True)
class SourceOptions(ReadOptions, _Connection):
    group: Annotated[str, "the consumer group, which is made if it is not there"]
    consumer: Annotated[str | None, "this one's name in the group; left out: PIPELINE.STAGE.INSTANCE"] = None
    start: Annotated[Literal["beginning", "end"], "where a group that is made here begins"] = "beginning"
    claim_idle: Annotated[
        zpipe.Duration, "what a consumer held so long, without a word of it, is taken over by another"
    ] = 60.0
    delete: Annotated[bool, "entries that are finished are also deleted, for a stream with one group"] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.claim_idle < 1:
            raise ValueError(f"claim_idle is {self.claim_idle:g} s: allowed is 1 s or more")


@dataclass(kw_only=True)
class SinkOptions(WriteOptions, _Connection):
    id_field: Annotated[str | None, "a field of each entry for the message's id, which a redelivery keeps"] = None
    maxlen: Annotated[int | None, "the stream is kept to about so many entries; left out: to none"] = None
    exact: Annotated[bool, "`maxlen` is kept exactly, which costs more"] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.maxlen is not None and self.maxlen < 1:
            raise ValueError(f"maxlen is {self.maxlen}: allowed is 1 or more")


class RedisStreamSource(ServicePlugin[SourceOptions], zpipe.Source[SourceOptions, str]):
    extra, module = "redis_stream", "redis"
    divides = True

    @zpipe.override
    def open(self, context: zpipe.Context[SourceOptions]) -> None:
        options = context.options
        self._consumer = options.consumer or f"{context.pipeline}.{context.stage}.{context.instance}"
        self._prefix = len(f"{context.stage}:")
        self._in_hand: set[str] = set()
        self._owed: dict[str, None] = {}  # in order. Each entry that is read is looked for here
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._reading, self._acking = (
            _reconnect(options),
            _reconnect(options),
        )  # reading has its connection all the time
        with self._reading.use() as redis:
            self._make_group(redis, options)
        threading.Thread(target=self._keep, args=[options], name="redis-keep", daemon=True).start()

    @zpipe.override
    def close(self, context: zpipe.Context[SourceOptions]) -> None:
        self._closed.set()
        self._acking.close()

    @zpipe.override
    def source(self, context: zpipe.Context[SourceOptions, str]) -> Iterator[tuple[str, Any]]:
        options, read = context.options, _entry_reader(context.options)
        with self._reading.use() as redis:
            self._make_group(redis, options)
        with self._acking.use() as redis:
            self._acknowledge(redis, options)
        with self._reading.use() as redis:
            for entry, fields in self._entries(redis, options, context.stopping):
                yield entry, read(entry, fields)

    def _entries(self, redis: Any, options: SourceOptions, stopping: threading.Event) -> Iterator[tuple[str, Any]]:
        """First what this consumer has pending, then what others left, then what is new."""
        pending, cursor, claim_at, quiet_since = "0", "0-0", 0.0, time.monotonic()
        block_ms = int(
            1000 * (_BLOCK_S if options.end_after is None else max(0.001, min(_BLOCK_S, options.end_after / 2)))
        )
        while not stopping.is_set():
            if pending:
                found = self._read(redis, options, pending, None)
                pending = found[-1][0].decode() if found else ""
            elif time.monotonic() >= claim_at:
                cursor, found = self._claim(redis, options, cursor)
                claim_at = time.monotonic() + options.claim_idle / 3 if cursor == "0-0" else claim_at
            else:
                found = self._read(redis, options, ">", block_ms)
            new = self._take(redis, options, found)
            if new or pending:
                quiet_since = time.monotonic()
            elif options.end_after is not None and time.monotonic() - quiet_since >= options.end_after:
                return
            yield from new

    def _read(self, redis: Any, options: SourceOptions, after: str, block: int | None) -> list[tuple[bytes, Any]]:
        with _judged():
            found = redis.xreadgroup(options.group, self._consumer, {options.stream: after}, count=_COUNT, block=block)
        streams = found.values() if isinstance(found, dict) else [entries for _, entries in found or ()]
        return [entry for entries in streams for entry in entries]

    def _claim(self, redis: Any, options: SourceOptions, cursor: str) -> tuple[str, list[tuple[bytes, Any]]]:
        """Some entries of consumers that have been silent about them, and where to look on: "0-0" at the end of the list."""
        with _judged():
            idle_ms = int(options.claim_idle * 1000)
            after, found, *_ = redis.xautoclaim(
                options.stream, options.group, self._consumer, idle_ms, cursor, count=_COUNT
            )
        return after.decode(), list(found)

    def _take(self, redis: Any, options: SourceOptions, found: list[tuple[bytes, Any]]) -> list[tuple[str, Any]]:
        """Those that are not on their way through the pipeline. One that was deleted while it was pending has nothing to give."""
        entries = [(entry.decode(), fields) for entry, fields in found]
        if gone := [entry for entry, fields in entries if not fields]:
            redis.xack(options.stream, options.group, *gone)
        with self._lock:
            new = [(e, fields) for e, fields in entries if fields and e not in self._in_hand and e not in self._owed]
            self._in_hand.update([entry for entry, _ in new])
        return new

    @zpipe.override
    def ack(self, ids: list[str], context: zpipe.Context[SourceOptions, str]) -> None:
        entries = [id[self._prefix :] for id in ids]
        with self._lock:
            self._owed.update(dict.fromkeys(entries))
            self._in_hand.difference_update(entries)
        with (
            suppress(zpipe.Throttled),
            self._acking.use() as redis,
        ):  # what is owed is paid by the source when it reads again
            self._acknowledge(redis, context.options)

    def _acknowledge(self, redis: Any, options: SourceOptions) -> None:
        with self._lock:
            owed = list(self._owed)
        if not owed:
            return
        with redis.pipeline(transaction=False) as pipe:
            pipe.xack(options.stream, options.group, *owed)
            if options.delete:
                pipe.xdel(options.stream, *owed)
            pipe.execute()
        with self._lock:
            for entry in owed:
                self._owed.pop(entry, None)

    def _keep(self, options: SourceOptions) -> None:
        """Tells Redis again and again that what is in hand is worked on, so that nobody claims it."""
        from redis import RedisError

        while not self._closed.wait(options.claim_idle / 3):
            with self._lock:
                entries = list(self._in_hand)
            with suppress(zpipe.Throttled, RedisError), self._acking.use() as redis:
                for start in range(0, len(entries), _COUNT):
                    some = entries[start : start + _COUNT]
                    redis.xclaim(options.stream, options.group, self._consumer, 0, some, justid=True)

    def _make_group(self, redis: Any, options: SourceOptions) -> None:
        from redis import ResponseError

        with _judged():
            try:
                begin = "0" if options.start == "beginning" else "$"
                redis.xgroup_create(options.stream, options.group, begin, mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise


class RedisStreamSink(ServicePlugin[SinkOptions], zpipe.Sink[SinkOptions]):
    extra, module = "redis_stream", "redis"

    @zpipe.override
    def open(self, context: zpipe.Context[SinkOptions]) -> None:
        self._redis = _reconnect(context.options)
        with self._redis.use() as redis, _judged():
            redis.ping()

    @zpipe.override
    def close(self, context: zpipe.Context[SinkOptions]) -> None:
        self._redis.close()

    @zpipe.override
    def process(self, message: zpipe.Message, context: zpipe.Context[SinkOptions]) -> None:
        self._add([_fields(message, context.options)], context.options)

    @zpipe.override
    def process_batch(
        self, messages: list[zpipe.Message], context: zpipe.Context[SinkOptions]
    ) -> list[zpipe.Reject | None]:
        answers: list[zpipe.Reject | None] = []
        entries = []
        for message in messages:
            try:
                entries.append(_fields(message, context.options))
                answers.append(None)
            except zpipe.Reject as error:
                answers.append(error)
        if entries:
            self._add(entries, context.options)
        return answers

    def _add(self, entries: list[dict[str, Any]], options: SinkOptions) -> None:
        with self._redis.use() as redis, _judged(), redis.pipeline(transaction=len(entries) > 1) as pipe:
            for fields in entries:
                pipe.xadd(options.stream, fields, maxlen=options.maxlen, approximate=not options.exact)
            pipe.execute()


def _reconnect(options: SourceOptions | SinkOptions) -> Reconnect[Any]:
    import redis

    def connect() -> Any:
        password = options.password.reveal() if options.password else None
        # Trying again is `Reconnect`'s, and its limits the daemon's.
        once = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        more = {"socket_connect_timeout": _CONNECT_S, "socket_timeout": 30.0, "socket_keepalive": True}
        if options.url.startswith("unix://"):
            del more["socket_keepalive"]
        return redis.Redis.from_url(options.url, username=options.username, password=password, retry=once, **more)

    return Reconnect(connect, lambda client: client.close(), (redis.ConnectionError, redis.TimeoutError))


@contextmanager
def _judged() -> Iterator[None]:
    """Says of an error of Redis whether it passes, or is for a person to put right. What is no answer of Redis goes through."""
    import redis
    from redis import exceptions

    try:
        yield
    except (exceptions.AuthenticationError, exceptions.AuthorizationError) as error:
        raise OperatorError(f"Redis refuses the credentials: {error}") from None
    except redis.ResponseError as error:
        passing = (redis.OutOfMemoryError, redis.ReadOnlyError, exceptions.ClusterDownError, exceptions.TryAgainError)
        if isinstance(error, passing) or any(word in str(error) for word in _PASSING):
            raise zpipe.Throttled(1.0, f"Redis: {error}") from None
        raise OperatorError(f"Redis refuses: {error}") from None


# Entries


def _entry_reader(options: SourceOptions) -> Callable[[str, dict[bytes, bytes]], Any]:
    read = reader(options)
    if options.field is None:
        return lambda entry, fields: _payload(entry, fields, options)
    name, field = options.field, options.field.encode()

    def from_field(entry: str, fields: dict[bytes, bytes]) -> Any:
        body = fields.get(field)
        if body is None:
            return BadRecord(f"entry {entry} has no field {name!r}", repr(fields))
        return read(body, lambda: _meta(entry, {key: value for key, value in fields.items() if key != field}, options))

    return from_field


def _payload(entry: str, fields: dict[bytes, bytes], options: SourceOptions) -> dict[str, Any]:
    payload: dict[str, Any] = {_text(key): _text(value) for key, value in fields.items()}
    if options.meta is not None:
        payload[options.meta] = _meta(entry, {}, options)
    return payload


def _meta(entry: str, fields: dict[bytes, bytes], options: SourceOptions) -> dict[str, Any]:
    return {"stream": options.stream, "id": entry} | {_text(key): _text(value) for key, value in fields.items()}


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _fields(message: zpipe.Message, options: SinkOptions) -> dict[str, Any]:
    payload = message.payload
    if options.field is not None:
        fields: dict[str, Any] = {options.field: WRITE[options.format](payload)}
    elif isinstance(payload, dict) and payload:
        fields = {name: _value(value) for name, value in payload.items()}
    else:
        raise zpipe.Reject(
            "the payload is no map with fields, and `field` is not set, under which it could be written as a whole"
        )
    if options.id_field is not None:
        fields[options.id_field] = message.id
    return fields


def _value(value: Any) -> Any:
    """As Redis takes it: numbers and text as they are; what is neither as JSON, null and true among them."""
    return value if isinstance(value, str | bytes | int | float) and not isinstance(value, bool) else json_text(value)
