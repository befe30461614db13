"""What happens on a NATS cluster, as a link is told of it. Values only; must not live here: causing them.

After `Lost` nothing is under way any more: what was published and not acknowledged may or may not be in the stream, requests for
parcels are void, and acks that were not confirmed may have to be repeated.
"""

from __future__ import annotations

from typing import NamedTuple

NOT_YET = "there is no connection yet"
"""The trouble of a link that has heard of no attempt to connect."""


class Connected(NamedTuple):
    """The connection stands, and every stream, consumer and bucket is there. `life`: the number of this connection, which
    commands go by;  server: for people."""

    life: int
    server: str
    version: str


class Lost(NamedTuple):
    """There is no connection, or not all that is needed; `reason` for people. It is tried again."""

    reason: str


class Stored(NamedTuple):
    """The parcel `number` is in the stream."""

    number: int


class NotStored(NamedTuple):
    """The parcel `number` is not, as far as is known. `full`: the stream has no room for it."""

    number: int
    reason: str
    full: bool


class Arrived(NamedTuple):
    """A parcel. `reply`: where its ack goes;  sequence: its place in the stream;  times: so often was it delivered, from 1 on."""

    reply: str
    sequence: int
    times: int
    payload: bytes


class PullOver(NamedTuple):
    """A request is over: so many of the parcels that it asked for do not come."""

    left: int


class Acked(NamedTuple):
    """The server has the ack of the parcel with that sequence."""

    sequence: int


class Figures(NamedTuple):
    """How full a stream is, in answer to the look `number`.

    first          sequences below this one are of parcels that are finished
    messages       in all parcels of the stream;  bytes: as they are stored
    parcels        in the stream;  pending: of them, not delivered yet;  ack_pending: delivered and not acked
    all_delivered  none is in the stream that was not delivered at least once
    """

    number: int
    first: int
    messages: int
    bytes: int
    parcels: int
    pending: int
    ack_pending: int
    all_delivered: bool


class Heard(NamedTuple):
    """An entry of the bucket, under its key; without a value: it was deleted. `live`: it was written while this connection
    listened, not before. `again`: it was read once more in case a live one was missed, and may be an old one."""

    key: str
    value: bytes
    live: bool
    again: bool = False


class AllHeard(NamedTuple):
    """All entries have been heard that were in the bucket when this connection began to listen."""


class Written(NamedTuple):
    """An entry of this instance is in the bucket."""

    key: str
    value: bytes


Event = Connected | Lost | Stored | NotStored | Arrived | PullOver | Acked | Figures | Heard | AllHeard | Written
