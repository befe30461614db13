"""What a pipeline's links are called on a NATS cluster, and what stands in the subjects that JetStream answers with.

Pure text belongs here. Must not live here: any connection.

Names of pipelines, stages and outlets have letters, digits, `-` and `_`. Names of streams and consumers join them by `+`, which
none of them has, so no two links share a name. A bucket's name may not have a `+`, so it is that of the pipeline alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_DEFAULT_OUTLET = "="
_PLAIN_ACK_TOKENS = 9
"""`$JS.ACK.STREAM.CONSUMER.DELIVERED.SEQUENCE.CONSUMER_SEQUENCE.TIME.PENDING`. Newer servers put the domain and the account
before the stream, and may add tokens behind."""


class LinkNames(NamedTuple):
    """One link, from the outlet `outlet` ("" is the default one) of stage `upstream` to stage `consumer`."""

    pipeline: str
    upstream: str
    outlet: str
    consumer: str

    @property
    def stream(self) -> str:
        return "+".join(("zpipe", self.pipeline, self.upstream, self.outlet or _DEFAULT_OUTLET, self.consumer))

    @property
    def durable(self) -> str:
        """The consumer that all instances of the stage share."""
        return f"zpipe+{self.consumer}"

    @property
    def subjects(self) -> str:
        """The subjects that the stream takes."""
        return f"{self._subject}.*"

    def subject(self, messages: int) -> str:
        """The subject of a parcel with so many messages. By its subjects the server can tell how many messages a stream has."""
        return f"{self._subject}.{messages}"

    @property
    def _subject(self) -> str:
        return ".".join(("zpipe", self.pipeline, self.upstream, self.outlet or _DEFAULT_OUTLET, self.consumer))

    @property
    def text(self) -> str:
        """The link in words, as `read.errors -> store`."""
        return f"{self.upstream}{'.' if self.outlet else ''}{self.outlet} -> {self.consumer}"


def messages_of(subject: str) -> int:
    """How many messages a parcel of that subject has; 0 if it is none of ours."""
    count = subject.rpartition(".")[2]
    return int(count) if count.isascii() and count.isdigit() else 0


def bucket(pipeline: str) -> str:
    """The key-value bucket in which the instances of a pipeline say where they stand."""
    return f"zpipe-{pipeline}"


class Delivered(NamedTuple):
    """What a delivery's reply subject says: its sequence in the stream, how often it was delivered, and what waits behind it."""

    sequence: int
    times: int
    pending: int


def delivered(reply: str) -> Delivered | None:
    """Reads the reply subject of a delivery; None for any other subject."""
    tokens = reply.split(".")
    if tokens[:2] != ["$JS", "ACK"] or len(tokens) < _PLAIN_ACK_TOKENS:
        return None
    at = 4 if len(tokens) == _PLAIN_ACK_TOKENS else 6
    try:
        times, sequence, pending = int(tokens[at]), int(tokens[at + 1]), int(tokens[at + 4])
    except (ValueError, IndexError):
        return None
    return Delivered(sequence, times, pending)


def stream_of(reply: str) -> str:
    """The stream of a delivery's reply subject."""
    tokens = reply.split(".")
    return tokens[2 if len(tokens) == _PLAIN_ACK_TOKENS else 4]


_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")


def version(text: str) -> tuple[int, int, int] | None:
    """The version of a server as numbers, which can be compared; None if it cannot be read."""
    found = _VERSION.match(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None
