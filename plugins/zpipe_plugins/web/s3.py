"""`s3`: reads the objects of a bucket in the order of their keys, or writes each batch as an object of NDJSON.

Without an input it is a source of S3, or of what speaks its protocol (`endpoint`). It reads the keys that begin with `prefix`
in their order, and with `poll` goes on when new ones come; these must come later in the order, as keys do that begin with a
date. A key that ends in `.gz` is unpacked. `format` says what a message is: the object as a whole (`{"key", "body"}`), a line
of it (`{"key", "line", "text"}`), or the value of a line of JSON.

With an input it is a sink. A batch becomes one object, called after the ids of its first and last message, so give the stage a
large `batch`. Its `queue` and the `unacked` of the stages before should hold two: one comes while the other is written. With
`workers = { count = 2 }` two are written at once, so have room for three. Each line is `{"id", "payload"}`.

```toml
[stages.read]
plugin = "files"
unacked = { messages = 40000 }
options = { paths = ["orders/*.ndjson"], format = "ndjson" }

[stages.store]
input = "read"
plugin = "s3"
batch = { messages = 20000, bytes = "16MiB", timeout = "60s" }
queue = { messages = 40000 }
options = { bucket = "lake", prefix = "orders/", access_key = "${AWS_KEY}", secret_key = "${AWS_SECRET}" }
```

| fault | what follows |
|---|---|
| no connection, `SlowDown`, 5xx | the stage waits, and tries again |
| wrong keys, no permission, no such bucket | the stage ends |
| a payload cannot be written as JSON | a dead letter; the rest is stored |
| a line that is no JSON, bytes that are no UTF-8 | a dead letter of the source |
| an object that is gone when it is read | the source goes on with the next |

**Resume.** A position is the key and the line: a start goes on after it.

**Redelivery.** The same batch overwrites its own object. After a kill a batch may be put together otherwise: then a message can
be in two objects, with the same `id`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from zpipe import Context, Duration, Message, Reject, Secret, Sink, Source, override
from zpipe.errors import OperatorError
from zpipe.messages import BadRecord
from zpipe_plugins.batch_names import batch_name
from zpipe_plugins.jsontext import json_text
from zpipe_plugins.reconnect import Reconnect, Reconnects, words_of
from zpipe_plugins.service_plugin import ServiceOptions, ServicePlugin

Position = list[Any]
_OPERATORS = {
    "401",
    "403",
    "AccessDenied",
    "InvalidAccessKeyId",
    "NoSuchBucket",
    "PermanentRedirect",
    "SignatureDoesNotMatch",
    "InvalidBucketName",
}
"""Codes of errors that only a person can put right."""
_GONE = {"NoSuchKey", "404"}


@dataclass(kw_only=True)
class BucketOptions(ServiceOptions):
    bucket: Annotated[str, "which bucket"]
    prefix: Annotated[str, "how the keys begin"] = ""
    endpoint: Annotated[str | None, "where the service is; left out: Amazon's, by the region"] = None
    region: Annotated[str | None, "of the bucket; left out: what the machine is configured for"] = None
    access_key: Annotated[Secret | None, "left out: what the machine is configured for"] = None
    secret_key: Annotated[Secret | None, "that belongs to the access key"] = None

    def __post_init__(self) -> None:
        if not self.bucket:
            raise ValueError("bucket is empty: allowed is the name of a bucket")
        if self.endpoint is not None and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"endpoint is {self.endpoint!r}: it must start with http:// or https://")
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key belong together: give both, or neither")

    @property
    @override
    def services(self) -> tuple[str, ...]:
        return () if self.endpoint is None else (self.endpoint,)


@dataclass(kw_only=True)
class SourceOptions(BucketOptions):
    format: Annotated[Literal["ndjson", "lines", "object"], "what a message is"] = "ndjson"
    poll: Annotated[Duration | None, "look for new keys this often; left out: end after the last key"] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.poll is not None and not self.poll > 0:
            raise ValueError(f"poll is {self.poll}: allowed is any time above 0")


@dataclass(kw_only=True)
class SinkOptions(BucketOptions):
    compression: Annotated[Literal["gzip", "none"], "of the objects"] = "gzip"


class _Unavailable(Exception):
    """The service, or the way to it."""


class S3Source(ServicePlugin[SourceOptions], Source[SourceOptions, Position]):
    extra, module = "s3", "boto3"
    _client: Reconnect[Any]

    @override
    def open(self, context: Context[SourceOptions]) -> None:
        self._client = Reconnect(partial(_client, context.options), _close, (_Unavailable,))

    @override
    def close(self, context: Context[SourceOptions]) -> None:
        self._client.close()

    @override
    def source(self, context: Context[SourceOptions, Position]) -> Iterator[tuple[Position, Any]]:
        options = context.options
        key, line = context.position or ["", -1]
        if key:  # the rest of the object in which it was
            yield from self._messages(options, key, line + 1)
        while not context.stopping.is_set():
            keys = self._keys_after(options, key)
            for key in keys:
                yield from self._messages(options, key, 0)
            if not keys:
                if options.poll is None:
                    return
                context.stopping.wait(options.poll)

    def _keys_after(self, options: SourceOptions, key: str) -> list[str]:
        """The next page of keys; none after the last."""
        found = self._call(options, "list_objects_v2", Prefix=options.prefix, StartAfter=key)
        return [entry["Key"] for entry in found.get("Contents", [])]

    def _messages(self, options: SourceOptions, key: str, first: int) -> Iterator[tuple[Position, Any]]:
        body = self._call(options, "get_object", Key=key)
        if body is None:
            return
        if options.format == "object":
            if first == 0:
                yield [key, 0], {"key": key, "body": body}
            return
        for number, line in enumerate(body.splitlines()[first:], first):
            if line:
                yield [key, number], _message_of(line, key, number, options.format)

    def _call(self, options: SourceOptions, operation: str, **arguments: Any) -> Any:
        """What the service answers: a page, or an object's bytes, None if it is gone."""
        from botocore.exceptions import BotoCoreError, ClientError

        with self._client.use() as client:
            try:
                answer = getattr(client, operation)(Bucket=options.bucket, **arguments)
                if operation != "get_object":
                    return answer
                body = answer["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] in _GONE and operation == "get_object":
                    return None
                raise _judged(error) from error
            except BotoCoreError as error:
                raise _judged(error) from error
        return gzip.decompress(body) if arguments["Key"].endswith(".gz") else body


class S3Sink(ServicePlugin[SinkOptions], Sink[SinkOptions]):
    extra, module = "s3", "boto3"
    _clients: Reconnects[Any]

    @override
    def open(self, context: Context[SinkOptions]) -> None:
        self._clients = Reconnects(partial(_client, context.options), _close, (_Unavailable,))

    @override
    def close(self, context: Context[SinkOptions]) -> None:
        self._clients.close()

    @override
    def process_batch(self, messages: list[Message], context: Context[SinkOptions]) -> list[Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        options = context.options
        answers: list[Any] = [None] * len(messages)
        lines, ids = [], []
        for index, message in enumerate(messages):
            try:
                lines.append(f'{{"id": {json.dumps(message.id)}, "payload": {json_text(message.payload)}}}\n')
                ids.append(message.id)
            except (TypeError, ValueError) as error:
                answers[index] = Reject(f"the payload cannot be written as JSON: {error}")
        if not lines:
            return answers
        body = "".join(lines).encode()
        packed = options.compression == "gzip"
        key = f"{options.prefix}{batch_name(ids)}.ndjson{'.gz' if packed else ''}"
        body = gzip.compress(body, 1, mtime=0) if packed else body
        with self._clients.use() as client:
            try:
                client.put_object(Bucket=options.bucket, Key=key, Body=body, ContentType="application/x-ndjson")
            except (BotoCoreError, ClientError) as error:
                raise _judged(error) from error
        return answers


def _client(options: BucketOptions) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    keys: dict[str, Any] = {}
    if options.access_key is not None and options.secret_key is not None:
        keys["aws_access_key_id"] = options.access_key.reveal()
        keys["aws_secret_access_key"] = options.secret_key.reveal()
    # It is tried again here, where people can see it.
    config = Config(connect_timeout=10, read_timeout=60, retries={"total_max_attempts": 1})
    try:
        session = boto3.session.Session(region_name=options.region, **keys)  # that of the module is for one thread
        return session.client("s3", endpoint_url=options.endpoint, config=config)
    except BotoCoreError as error:
        raise _judged(error) from error


def _close(client: Any) -> None:
    client.close()


def _judged(error: Exception) -> Exception:
    """What to raise for an error of boto3."""
    from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
    from botocore.exceptions import ConnectionError as NoConnection

    if isinstance(error, NoConnection | HTTPClientError | IncompleteReadError):
        return _Unavailable(words_of(error))
    if not isinstance(error, ClientError):
        return OperatorError(words_of(error))
    known = error.response["Error"]["Code"] in _OPERATORS
    return OperatorError(words_of(error)) if known else _Unavailable(words_of(error))


def _message_of(line: bytes, key: str, number: int, format: str) -> Any:
    try:
        return json.loads(line) if format == "ndjson" else {"key": key, "line": number, "text": line.decode()}
    except ValueError as error:
        return BadRecord(f"line {number + 1} of {key}: {error}", line.decode(errors="replace"))
