"""A section: a run of messages encoded together, the piece a parcel's body is made of.

May live here: the encoded form of messages and cutting it. It knows no link, no session and no plugin.

The columns of a section (ids, origins, payloads, headers) are parallel arrays: 0.83 µs a message to encode against 1.17 as
rows. They are an array of four in CBOR or in MessagePack, and the first byte tells in which. A parcel's body is its sections
one after another, so the daemon joins and parts parcels without decoding them; only a section larger than the credit left is
decoded and cut, and one whose codec its consumer does not read is decoded and written anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any, NamedTuple

from zpipe.core.ledger import Derivation, Owners
from zpipe.core.policy import Codec
from zpipe.core.wire import cbor, msgpack
from zpipe.core.wire.cbor import Encoded
from zpipe.core.wire.frames import Parcel
from zpipe.errors import PeerError
from zpipe.messages import Message, received

_MSGPACK_HEAD = b"\x94"
"""The first byte of an array of four; in CBOR that of an array of twenty, which no section is."""
MAX_ORIGIN_S = 1e12
"""About the year 33,700: a peer's clock may be wrong, but what is computed with it must stay a number."""


ABSENT: dict[str, Any] = {"headers": None}
"""The columns that may be left out, and what each message has there if they are."""


class Columns(NamedTuple):
    """The fields of messages, an array each, all of one length; origins are seconds since the epoch.

    Messages are copied by `part` alone, and changed by `_replace`, so that no copy forgets a field.
    """

    ids: list[str]
    origins: list[float]
    payloads: list[Any]
    headers: list[Any] | None

    def part(self, start: int, stop: int) -> Columns:
        """Messages [start, stop)."""
        return Columns._make([column and column[start:stop] for column in self])

    def filled(self) -> Columns:
        """The same with every column, also those that were left out."""
        count = len(self.ids)
        named = zip(self._fields, self, strict=True)
        return Columns._make([[ABSENT[name]] * count if column is None else column for name, column in named])

    def trimmed(self) -> Columns:
        """The same without the columns that tell nothing."""

        def tells(name: str, column: list[Any]) -> bool:
            return name not in ABSENT or column.count(ABSENT[name]) < len(column)

        named = zip(self._fields, self, strict=True)
        return Columns._make([column if column is None or tells(name, column) else None for name, column in named])

    def messages(self, outlet: str = "", attempt: int = 1, source: str = "") -> list[Message]:
        """The messages, as plugins and people get them."""
        ids, origins, payloads, headers = self
        return received(payloads, ids, origins, headers or repeat(ABSENT["headers"]), outlet, attempt, source)


def plain(ids: list[str], origins: list[float], payloads: list[Any]) -> Columns:
    """Columns without any of the optional ones."""
    return Columns(ids, origins, payloads, None)


def encode(
    ids: list[str], origins: list[float], payloads: list[Any], headers: list[Any] | None, codec: Codec = "cbor"
) -> bytes:
    """The body of a section, in `codec` if it takes these payloads, else in CBOR. Raises ValueError if one is not plain."""
    columns = [ids, origins, payloads, headers]
    checked = payloads if headers is None else [*payloads, *headers]
    packed = msgpack.write_payloads(columns, checked) if codec == "msgpack" else None
    return cbor.write_payloads(columns, checked, msgpack.is_plain) if packed is None else packed


def decode(body: Encoded, count: int) -> Columns:
    """The columns of a body that is said to hold `count` messages. Raises PeerError if it does not."""
    packed = body[:1] == _MSGPACK_HEAD
    columns = msgpack.read(body) if packed else cbor.read(body)
    if type(columns) is not list or len(columns) != len(Columns._fields):
        raise PeerError("a section is an array of ids, origins, payloads and headers")
    ids, origins, payloads, headers = columns
    for column in (ids, origins, payloads) if headers is None else columns:
        if type(column) is not list or len(column) != count:
            raise PeerError(f"a section's columns must each hold {count} entries")
    if not _are_texts(ids):
        raise PeerError("ids must be text")
    if not _are_times(origins):
        raise PeerError("origins must be seconds since the epoch")
    if headers is not None and not set(map(type, headers)) <= {dict, type(None)}:
        raise PeerError("headers must be maps")
    if packed and msgpack.is_too_deep(payloads if headers is None else [*payloads, *headers]):
        raise PeerError(f"it is nested more than {cbor.MAX_DEPTH} deep")
    return Columns._make(columns)


def _are_texts(ids: list[Any]) -> bool:
    try:
        "".join(ids)  # 5 ns each, where to look at the type costs 20
    except TypeError:
        return False
    return True


def _are_times(origins: list[Any]) -> bool:
    try:
        first = origins[0]
        # Mostly: what a source yields at once is of one time. What is equal to a number above 1 is a number: only True is 1.
        if type(first) is float and first > 1 and origins.count(first) == len(origins):
            return first < MAX_ORIGIN_S
        if not set(map(type, origins)) <= {float, int}:
            return False
        return math.isfinite(sum(origins)) and min(origins) >= 0 and max(origins) < MAX_ORIGIN_S
    except (OverflowError, IndexError):
        return False


class Section:
    """`count` messages, numbered [first, first + count) by the link's producer.

    size        bytes of the body; of a part that was cut and not yet encoded, its share of the whole
    attempt     1 for a first delivery, one more for each redelivery
    suspicion   0; 1 if a consumer died while it was in a call with others; n + 1 if n died while it was in a call alone
    derivation  what hears that this is acked (None at the receiver);  owners: which inputs its messages were made from
    """

    __slots__ = ("_body", "_columns", "attempt", "count", "derivation", "first", "owners", "size", "suspicion")

    def __init__(
        self,
        body: Encoded,
        count: int,
        first: int = 0,
        attempt: int = 1,
        derivation: Derivation | None = None,
        owners: Owners = None,
        suspicion: int = 0,
    ) -> None:
        self._body: Encoded | None = body
        self._columns: Columns | None = None
        self.size = len(body)
        self.count = count
        self.first = first
        self.attempt = attempt
        self.derivation = derivation
        self.owners = owners
        self.suspicion = suspicion

    def row(self) -> list[int]:
        """What a parcel's header says of it, as of SectionRow. Its `body` must have been asked for, so that the size is exact."""
        return [self.count, self.size, self.first, self.attempt, self.suspicion]

    def body(self, codec: Codec = "msgpack") -> bytes:
        """The encoded messages, in `codec` or in CBOR, which everybody reads; from here on `size` is exact."""
        if self._body is None or (codec == "cbor" and self._body[:1] == _MSGPACK_HEAD):
            columns = self.columns()
            self._body = cbor.write(list(columns)) if codec == "cbor" else encode(*columns, codec)
            self._columns = None
            self.size = len(self._body)
        elif type(self._body) is memoryview:
            self._body = bytes(self._body)
        return self._body

    def columns(self) -> Columns:
        """Decoded once and kept: several tasks may each take a part. Two threads at once decode twice, harmlessly."""
        if self._columns is None:
            assert self._body is not None
            self._columns = decode(self._body, self.count)
        return self._columns

    def forget_columns(self) -> None:
        """Drops the decoded columns. They will hardly be asked for again, and kept until the ack they would push all others out
        of the processor's cache."""
        if self._body is not None:
            self._columns = None

    def bytes_between(self, start: int, stop: int) -> int:
        """The share of the size that messages [start, stop) stand for; shares of disjoint parts add up exactly."""
        return self.size * stop // self.count - self.size * start // self.count

    def cut(self, start: int, stop: int) -> Section:
        """Messages [start, stop) with their numbers. Decodes; encoding waits for `body`, since a part may be cut again."""
        owners = self.owners and self.owners[start:stop]
        first = self.first + start
        part = Section(b"", stop - start, first, self.attempt, self.derivation, owners, self.suspicion)
        part._columns = self.columns().part(start, stop)
        part._body = None
        part.size = self.bytes_between(start, stop)
        return part

    def isolate(self, suspicions: Mapping[int, int]) -> Iterator[Section]:
        """The section, cut so that each suspected message is alone in one with its suspicion. `suspicions` are by number."""
        at = 0
        for number in sorted(n for n in suspicions if self.first <= n < self.first + self.count):
            found = number - self.first
            if at < found:
                yield self.cut(at, found)
            one = self if self.count == 1 else self.cut(found, found + 1)
            one.suspicion = suspicions[number]
            yield one
            at = found + 1
        if at < self.count:
            yield self.cut(at, self.count) if at else self

    def settle(self) -> None:
        """Every message of it is acked."""
        if self.derivation is not None:
            self.derivation.settle(self.count, self.owners)


def sections_of(parcel: Parcel, body: Encoded) -> list[Section]:
    """What a parcel's body is made of, by its header. Raises PeerError if the lengths do not add up."""
    sections = []
    at = 0
    for count, size, first, attempt, suspicion in parcel.sections:
        sections.append(Section(body[at : at + size], count, first, attempt, suspicion=suspicion))
        at += size
    if at != len(body):
        raise PeerError(f"a parcel's sections do not add up to its {len(body)} bytes")
    return sections
