"""The frames of the protocol: each kind's fields, reading with checks, writing.

May live here: what PROTOCOL.md and protocol.cddl say of frames, one class a kind. It knows no session and no socket; it
never judges whether a frame makes sense now, only whether it is one.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, get_args

from zpipe.core.lifecycle import State
from zpipe.core.policy import MIB
from zpipe.core.wire import cbor
from zpipe.errors import PeerError

VERSION = 1
MAX_FRAME_BYTES = 1 * MIB
"""Of every frame but a parcel's body; a statement of 4,096 ranges has 0.05 MiB."""
MAX_FRAME_VALUES = 65_536
"""A statement with all the rows it may have has 45,000."""
MAX_ROWS = 4096
MAX_TEXT_CHARACTERS = 1024
MAX_NAME_CHARACTERS = 128
"""Of incarnations."""
SECRET_BYTES = 16
"""Of a session's name and of a consumer's secret: 128 random bits cannot be guessed, and no other frame shows them."""
NO_SESSION = "no such session"
"""The reason of a refuse that every end of a session brings about, and no fault of either side."""
ANNOUNCEMENT_TOPIC, SNAPSHOT_TOPIC, TAP_TOPIC = TOPICS = (b"announcement", b"snapshot", b"tap")
"""Of what is published on the control socket."""
MAX_QUEUE_MESSAGES = 1_000_000_000
"""Goes into a high-water mark, a C int."""

_CHECKS: dict[str, Any] = {
    "str": lambda v: isinstance(v, str) and len(v) <= MAX_TEXT_CHARACTERS,
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 63,
    "float": lambda v: isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < 1 << 63,
    "bool": lambda v: isinstance(v, bool),
    "bytes": lambda v: isinstance(v, bytes),
    "list[list[int]]": lambda v: isinstance(v, list) and len(v) <= MAX_ROWS and all(map(_is_ints, v)),
    "list[str]": lambda v: isinstance(v, list) and len(v) <= MAX_ROWS and all(map(_CHECKS["str"], v)),
    "dict[str, Any]": lambda v: isinstance(v, dict),
}


class SectionRow(NamedTuple):
    """What a parcel's header says of one section: `size` is bytes of its body, `first` the number of its first message."""

    messages: int
    size: int
    first: int
    attempt: int
    suspicion: int


_ROWS = {"ranges": 2, "returned": 3, "finished": 3, "suspects": 3, "sections": len(SectionRow._fields)}
_STATES = frozenset(state.value for state in State)


def _absent(one: Field[Any]) -> Any:
    """What it means that a field is missing; None, which no check takes, where it must not be. Those with a default are younger
    than the protocol, and a program that was written before them does not send them."""
    if one.default_factory is not MISSING:
        return one.default_factory()
    return None if one.default is MISSING else one.default


def _is_ints(row: Any) -> bool:
    return isinstance(row, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in row)


@dataclass(slots=True)
class Hello:
    """Consumer to producer: open a session to my inbox. `number` grows with each session asked for by one incarnation.

    secret    random bytes of this incarnation: who asks for a session in place of one that is open must have the same
    codecs    of sections that it reads
    suspects  [start, stop, alone]: numbers of messages that were in a call of the plugin when this instance's life before
              ended by accident; alone is 1 if nothing else was.  suspects_of: the producer's incarnation that numbered them
    """

    kind: ClassVar = "hello"
    version: int
    pipeline: str
    stage: str
    instance: int
    incarnation: str
    secret: bytes
    outlet: str
    upstream: str
    inbox: str
    number: int
    queue_messages: int
    suspects_of: str
    suspects: list[list[int]]
    codecs: list[str] = field(default_factory=lambda: ["cbor"])


@dataclass(slots=True)
class Welcome:
    """Producer to consumer: the session is open; state your credit. Its name is random, so only who reads this knows it.

    codec  of the sections of this session, any of which may be in CBOR instead
    """

    kind: ClassVar = "welcome"
    version: int
    session: bytes
    incarnation: str
    number: int
    codec: str = "cbor"


@dataclass(slots=True)
class Refuse:
    """The answer to a frame that cannot be met. `session` names what it is about; it is empty if there is none."""

    kind: ClassVar = "refuse"
    session: bytes
    reason: str
    number: int


@dataclass(slots=True)
class Statement:
    """Consumer to producer, absolute state: how far you may send, what I have received, finished and hand back.

    number           grows with every statement of the session; an older one than the last read is ignored
    limit_*          the producer may have sent so many messages / bytes in this session
    received         the last sequence that arrived
    released         messages whose own work here is finished: progress
    floor, ranges    every parcel up to `floor`, and in ranges [start, stop), is finished with all derived from it
    returned         [sequence, start, stop): messages of a parcel handed back unstarted
    finished         [sequence, start, stop): messages of a parcel that is not finished as a whole, which are
    rate             messages a second this consumer can serve
    reply            asks for a confirm
    leaving          send no more
    seen_stopped     the consumer has read that the producer is STOPPED
    """

    kind: ClassVar = "statement"
    session: bytes
    number: int
    limit_messages: int
    limit_bytes: int
    received: int
    released: int
    floor: int
    ranges: list[list[int]]
    returned: list[list[int]]
    finished: list[list[int]]
    rate: float
    reply: bool
    leaving: bool
    seen_stopped: bool


@dataclass(slots=True)
class Confirm:
    """Producer to consumer, absolute state: what I have sent and which statement I have read.

    lowest      no message numbered below it will be sent again
    need_bytes  the next message has so many bytes and does not fit the limit (0: it does)
    """

    kind: ClassVar = "confirm"
    session: bytes
    number: int
    sequence: int
    sent_messages: int
    sent_bytes: int
    lowest: int
    need_bytes: int


@dataclass(slots=True)
class Announcement:
    """On the control PUB at every change and heartbeat: who I am and how far along in life.

    hungry  nothing more can come from me until what you hold of mine is acked: do not wait for a batch to fill
    ended   (STOPPED) the stream ended; false when the instance left
    """

    kind: ClassVar = "announcement"
    pipeline: str
    stage: str
    instance: int
    incarnation: str
    state: str
    hungry: bool
    ended: bool


@dataclass(slots=True)
class Request:
    """Operator to instance: `what` is one of drain, leave, pause, resume, snapshot, tap:N."""

    kind: ClassVar = "request"
    number: int
    what: str


@dataclass(slots=True)
class Done:
    """The answer to a request that was met."""

    kind: ClassVar = "done"
    number: int
    state: str


@dataclass(slots=True)
class Parcel:
    """Header of a parcel: `sections` are rows as of SectionRow, their bodies the second frame."""

    kind: ClassVar = "parcel"
    session: bytes
    sequence: int
    sections: list[list[int]]

    def rows(self) -> list[SectionRow]:
        return [SectionRow(*row) for row in self.sections]


@dataclass(slots=True)
class End:
    """In the data path, alone: no parcel will follow but redeliveries. Acknowledged like a parcel."""

    kind: ClassVar = "end"
    session: bytes
    sequence: int


@dataclass(slots=True)
class Snapshot:
    """On the control PUB: an instance's counts. `body` is described in core/telemetry/snapshot.py; monitors take unknown keys."""

    kind: ClassVar = "snapshot"
    body: dict[str, Any]


@dataclass(slots=True)
class Tap:
    """On the control PUB, for whoever asked: a section that passed on the link upstream.outlet -> consumer.

    peer    the instance at the other end of the link
    passed  messages that have passed there since somebody looks on, these among them
    count, attempt, size   of the section, as in a parcel's row
    body    the section; empty: too large to be shown
    """

    kind: ClassVar = "tap"
    pipeline: str
    stage: str
    instance: int
    upstream: str
    outlet: str
    consumer: str
    peer: int
    passed: int
    count: int
    attempt: int
    size: int
    body: bytes


Frame = Hello | Welcome | Refuse | Statement | Confirm | Announcement | Request | Done | Parcel | End | Snapshot | Tap
_KINDS: dict[str, type[Any]] = {c.kind: c for c in get_args(Frame)}
_FIELDS = {kind: tuple((f.name, _CHECKS[str(f.type)], _absent(f)) for f in fields(c)) for kind, c in _KINDS.items()}
_NAMES = {kind: tuple(name for name, *_ in rows) for kind, rows in _FIELDS.items()}


def write(frame: Frame) -> bytes:
    """The frame as a map of its kind and fields."""
    fields_ = {name: getattr(frame, name) for name in _NAMES[frame.kind]}
    return cbor.write({"kind": frame.kind, **fields_})


def read(encoded: bytes) -> Frame:
    """The frame in `encoded`. Unknown keys are let by, for later versions. Raises PeerError for anything else."""
    if len(encoded) > MAX_FRAME_BYTES:
        raise PeerError(f"a frame of {len(encoded)} bytes, over {MAX_FRAME_BYTES}")
    value = cbor.read(encoded, MAX_FRAME_VALUES)
    kind = value.get("kind") if isinstance(value, dict) else None
    rows = _FIELDS.get(kind) if isinstance(kind, str) else None
    if rows is None or not isinstance(kind, str):
        raise PeerError(f"no such kind of frame: {_show(kind)}", field="kind")
    values = []
    for name, check, absent in rows:
        given = value.get(name, absent)
        if not check(given) or not _fits(kind, name, given):
            raise PeerError(f"{kind}.{name} is {_show(given)}", kind, name)
        values.append(given)
    frame: Frame = _KINDS[value["kind"]](*values)
    if isinstance(frame, Parcel) and not frame.sections:
        raise PeerError("a parcel without sections", frame.kind, "sections")
    return frame


def check_subscription(message: bytes) -> None:
    """What a subscriber of the control socket has sent, as an XPUB gives it: 1 and a topic, or 0 and one that it leaves.

    Raises PeerError for what selects none of TOPICS: libzmq keeps every topic that it is sent, a node for each byte of it.
    """
    if message[:1] == b"\x00":
        return
    if message[:1] != b"\x01":
        raise PeerError("no subscription, and a subscriber sends nothing else")
    if not any(topic.startswith(message[1:]) for topic in TOPICS):
        raise PeerError("a subscription to something that is never published", "subscription", "topic")


def _fits(kind: str, name: str, value: Any) -> bool:
    """What a field must be beyond its type."""
    match name:
        case "ranges" | "returned" | "finished" | "suspects" | "sections":
            if any(len(row) != _ROWS[name] for row in value):
                return False
            return name != "sections" or all(
                row.messages >= 1 and row.size >= row.messages and row.attempt >= 1
                for row in map(SectionRow._make, value)
            )
        case "session" | "secret":
            return len(value) == SECRET_BYTES or (kind == Refuse.kind and not value)
        case "incarnation":
            return 0 < len(value) <= MAX_NAME_CHARACTERS
        case "state":
            return value in _STATES
        case "queue_messages":
            return bool(value <= MAX_QUEUE_MESSAGES)
    return True


def _show(value: Any) -> str:
    """For an error's text; an int of over 4,300 digits has no repr."""
    try:
        return repr(value)[:160]
    except ValueError:
        return f"a {type(value).__name__}"
