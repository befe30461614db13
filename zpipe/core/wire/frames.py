"""The frames of the protocol: each kind's fields, reading with checks, writing.

May live here: what PROTOCOL.md and protocol.cddl say of frames, one class a kind. It knows no session and no socket; it
never judges whether a frame makes sense now, only whether it is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import Field, dataclass, field, fields
from functools import cache
from operator import itemgetter
from struct import Struct
from struct import error as StructError
from typing import Any, ClassVar, NamedTuple, get_args

from zpipe.core.lifecycle import State
from zpipe.core.policy import MIB
from zpipe.core.wire import cbor
from zpipe.errors import PeerError

VERSION, MINOR = 2, 0
"""Of the protocol. Ends of one VERSION can talk whatever their MINOR: a newer field has a meaning where it is missing."""
MAX_FRAME_BYTES = 1 * MIB
"""Of every frame but a parcel's body; a statement of 4,096 ranges has 0.05 MiB."""
MAX_FRAME_VALUES = 65_536
"""A statement with all the rows it may have has 45,000."""
MAX_ROWS = 4096
MAX_TEXT_CHARACTERS = 1024
MAX_NAME_CHARACTERS = 128
"""The longest incarnation."""
SECRET_BYTES = 16
"""A session's name and a consumer's secret have so many: 128 random bits cannot be guessed, and no other frame shows them."""
NO_SESSION = "no such session"
"""The reason of the refuse that a statement gets after its session has ended, through no fault of either side."""
ANNOUNCEMENT_TOPIC, SNAPSHOT_TOPIC, TAP_TOPIC = TOPICS = (b"announcement", b"snapshot", b"tap")
"""The topics of what is published on the control socket."""
HELLO_OF_EVERY_VERSION = ("version", "pipeline", "stage", "instance", "number")
"""Fields of a hello that no version changes."""
MAX_QUEUE_MESSAGES = 1_000_000_000
"""The most that a hello may say, since it goes into a high-water mark, a C int."""


class SectionRow(NamedTuple):
    """What a parcel's header says of one section: `size` is bytes of its body, `first` the number of its first message."""

    messages: int
    size: int
    first: int
    attempt: int
    suspicion: int


@dataclass(slots=True)
class Hello:
    """Consumer to producer: open a session to my inbox. `number` grows with each session asked for by one incarnation.

    secret    random bytes of this incarnation: who asks for a session in place of one that is open must have the same
    codecs    which of them it reads sections in
    minor     of the protocol's version
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
    minor: int = MINOR


@dataclass(slots=True)
class Welcome:
    """Producer to consumer: the session is open; state your credit. Its name is random, so only who reads this knows it.

    codec  of the sections of this session, any of which may be in CBOR instead
    numbers  names the sequence of its messages' numbers, where it goes on in later incarnations; "": it does not
    """

    kind: ClassVar = "welcome"
    version: int
    session: bytes
    incarnation: str
    number: int
    codec: str = "cbor"
    numbers: str = ""
    minor: int = MINOR


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
    """Operator to instance: `what` is one of those that PROTOCOL.md 5.10 has."""

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
class Bury:
    """A program that zpipe has started to its keeper: store this dead letter. It is answered once that is durable.

    payload   in CBOR; of what could not be read, the bytes as they came, as a byte string in CBOR
    attempts  how often it was tried
    source    the input that it came by, as the config names it
    """

    kind: ClassVar = "bury"
    number: int
    id: str
    origin: float
    payload: bytes
    attempts: int
    reason: str
    source: str


@dataclass(slots=True)
class Parcel:
    """Header of a parcel: `sections` are rows as of SectionRow, their bodies the second frame.

    One without sections is the end of the stream: no parcel will follow but redeliveries. It is acknowledged like the others.
    """

    kind: ClassVar = "parcel"
    session: bytes
    sequence: int
    sections: list[list[int]]

    @property
    def is_end(self) -> bool:
        return not self.sections

    def rows(self) -> list[SectionRow]:
        return [SectionRow(*row) for row in self.sections]


@dataclass(slots=True)
class Snapshot:
    """On the control PUB: an instance's counts. `body` is described in PROTOCOL.md 5.9; monitors take unknown keys."""

    kind: ClassVar = "snapshot"
    body: dict[str, Any]


@dataclass(slots=True)
class Tap:
    """On the control PUB, for whoever asked: a section that passed on the link upstream.outlet -> consumer.

    peer    the instance at the other end of the link
    passed  messages that have passed there since the first tap began, these among them
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


Frame = Hello | Welcome | Refuse | Statement | Confirm | Announcement | Request | Done | Bury | Parcel | Snapshot | Tap
MISSING: dict[str, dict[str, Any]] = {
    "hello": {"minor": 0, "outlet": "", "suspects_of": "", "suspects": [], "codecs": ["cbor"]},
    "welcome": {"minor": 0, "codec": "cbor", "numbers": ""},
    "refuse": {"session": b"", "number": 0},
    "statement": {
        "ranges": [],
        "returned": [],
        "finished": [],
        "rate": 0,
        "reply": False,
        "leaving": False,
        "seen_stopped": False,
    },
    "confirm": {"need_bytes": 0},
    "announcement": {"hungry": False, "ended": False},
    "parcel": {"sections": []},
    "bury": {"origin": 0, "attempts": 1, "source": ""},
}
"""What it means that a field is missing. Nobody changes these values; the Python stage writes every field."""
_STATES = frozenset(state.value for state in State)
_KINDS: dict[str, type[Any]] = {c.kind: c for c in get_args(Frame)}


def _dictionary(frame: type[Any]) -> Callable[[Any], dict[str, Any]]:
    """Makes the map of a frame's kind and fields. One expression takes a third of what a loop over the fields does."""
    items = "".join(f", {one.name!r}: frame.{one.name}" for one in fields(frame))
    made: Callable[[Any], dict[str, Any]] = eval(f"lambda frame: {{'kind': {frame.kind!r}{items}}}")
    return made


_DICTIONARIES = {kind: _dictionary(frame) for kind, frame in _KINDS.items()}

_MOST = 1 << 63
_SECTION_NUMBERS = len(SectionRow._fields)
_INT = "type({0}) is int and 0 <= {0} < 1 << 63"
_ROWS = "type({{0}}) is list and (not {{0}} or len({{0}}) <= MAX_ROWS and all(_is_row(row, {0}) for row in {{0}}))"
_SECRET = "type({0}) is bytes and len({0}) == SECRET_BYTES"
_OF_TYPE = {
    "str": "type({0}) is str and len({0}) <= MAX_TEXT_CHARACTERS",
    "int": _INT,
    "float": "type({0}) in (int, float) and 0 <= {0} < 1 << 63",
    "bool": "type({0}) is bool",
    "bytes": "type({0}) is bytes",
    "list[str]": "type({0}) is list and len({0}) <= MAX_ROWS and all(map(_is_text, {0}))",
    "dict[str, Any]": "type({0}) is dict",
}
_OF_NAME = {
    "session": _SECRET,
    "secret": _SECRET,
    "incarnation": "type({0}) is str and 0 < len({0}) <= MAX_NAME_CHARACTERS",
    "state": "type({0}) is str and {0} in _STATES",
    "queue_messages": f"{_INT} and {{0}} <= MAX_QUEUE_MESSAGES",
    "ranges": _ROWS.format(2),
    "returned": _ROWS.format(3),
    "finished": _ROWS.format(3),
    "suspects": _ROWS.format(3),
    "sections": "type({0}) is list and len({0}) <= MAX_ROWS and all(map(_is_section, {0}))",
}
_OF_FIELD = {("refuse", "session"): f"{{0}} == b'' or {_SECRET}"}
"""The condition that a field must meet, as source text: by its type, by its name where that says more, or by kind and name. All
conditions of a kind become one function, which is called for each frame: a call for each field took three times as long."""


def _is_row(row: Any, length: int) -> bool:
    return (
        type(row) is list
        and len(row) == length
        and set(map(type, row)) == {int}
        and min(row) >= 0
        and max(row) < 1 << 63
    )


def _is_text(value: Any) -> bool:
    return type(value) is str and len(value) <= MAX_TEXT_CHARACTERS


def _is_section(row: Any) -> bool:
    """Written out for five numbers: by `_is_row` it takes twice as long."""
    if type(row) is not list or len(row) != _SECTION_NUMBERS:
        return False
    messages, size, first, attempt, suspicion = row
    numbers = type(messages) is type(size) is type(first) is type(attempt) is type(suspicion) is int
    small = numbers and size < _MOST and first < _MOST and attempt < _MOST and suspicion < _MOST
    return small and size >= messages >= 1 and attempt >= 1 and first >= 0 and suspicion >= 0


def _condition(kind: str, one: Field[Any]) -> str:
    return (_OF_FIELD.get((kind, one.name)) or _OF_NAME.get(one.name) or _OF_TYPE[str(one.type)]).format(one.name)


@cache
def _sound(names: tuple[str, ...], conditions: tuple[str, ...]) -> Callable[..., bool]:
    """Whether all conditions hold for values of these names."""
    text = f"lambda {', '.join(names)}: {' and '.join(f'({one})' for one in conditions)}"
    sound: Callable[..., bool] = eval(text, globals())
    return sound


class _Reader:
    """For frames of one kind: `values` takes the fields' values out of a map, in order; `sound` checks them."""

    def __init__(self, frame: type[Any]) -> None:
        names = tuple(one.name for one in fields(frame))
        self.frame = frame
        self.values: Callable[[Any], Any] = itemgetter(*names) if len(names) > 1 else lambda value: [value[names[0]]]
        self.sound = _sound(names, tuple(_condition(frame.kind, one) for one in fields(frame)))


_READERS = {kind: _Reader(frame) for kind, frame in _KINDS.items()}


def write(frame: Frame) -> bytes:
    """The frame as a map of its kind and fields."""
    return cbor.write(_DICTIONARIES[frame.kind](frame))


_ONE_SECTION = Struct(">22s16s10sI12sIcIcIcIcI")
_SAYS_PARCEL, _SAYS_SEQUENCE = b"\xa4dkindfparcelgsessionP", b"hsequence\x1a"
_SAYS_SECTION, _SAYS_NUMBER = b"hsections\x81\x85\x1a", b"\x1a"
_SAYS_ALL = _SAYS_PARCEL, _SAYS_SEQUENCE, _SAYS_SECTION, _SAYS_NUMBER, _SAYS_NUMBER, _SAYS_NUMBER, _SAYS_NUMBER


def write_parcel(session: bytes, sequence: int, sections: list[list[int]]) -> bytes:
    """The header of a parcel. At light load each message has one to itself, and cbor2 takes five times as long for it as it takes
    to fill in numbers of 32 bits. Those are CBOR, though not in its shortest form (PROTOCOL.md, "Encoding")."""
    if len(sections) == 1:
        count, size, first, attempt, suspicion = sections[0]
        says = _SAYS_NUMBER
        row = count, says, size, says, first, says, attempt, says, suspicion
        try:
            return _ONE_SECTION.pack(_SAYS_PARCEL, session, _SAYS_SEQUENCE, sequence, _SAYS_SECTION, *row)
        except StructError:  # a number has more than 32 bits
            pass
    return write(Parcel(session, sequence, sections))


def _read_one_section(encoded: bytes) -> Parcel | None:
    """A header as `write_parcel` fills it in. None for any other, and for one that is not sound.

    With cbor2 this takes 3 µs, and 25 in a process that waits for each message, since its code is in no cache of the processor by
    then. Without it, it takes 1 µs and 7 (measured).
    """
    values = _ONE_SECTION.unpack(encoded)
    kind, session, a, sequence, b, count, c, size, d, first, e, attempt, f, suspicion = values
    if (kind, a, b, c, d, e, f) == _SAYS_ALL and size >= count >= 1 and attempt >= 1:
        return Parcel(session, sequence, [[count, size, first, attempt, suspicion]])
    return None


def read(encoded: bytes, most_bytes: int = MAX_FRAME_BYTES) -> Frame:
    """The frame in `encoded`. Unknown keys are passed over, for later versions. Raises PeerError for anything else."""
    if len(encoded) > most_bytes:
        raise PeerError(f"a frame of {len(encoded)} bytes, over {most_bytes}")
    if len(encoded) == _ONE_SECTION.size and (parcel := _read_one_section(encoded)) is not None:
        return parcel
    value = cbor.read(encoded, MAX_FRAME_VALUES)
    kind = value.get("kind") if type(value) is dict else None
    reader = _READERS.get(kind) if type(kind) is str else None
    if reader is None:
        raise PeerError(f"no such kind of frame: {_show(kind)}", field="kind")
    try:
        values = reader.values(value)
    except KeyError:
        values = _with_defaults(reader.frame, value)
    if not reader.sound(*values):
        if reader.frame is Hello and (hello := _of_another_version(value)) is not None:
            return hello
        raise _fault(reader.frame, values)
    frame: Frame = reader.frame(*values)
    return frame


def _of_another_version(value: dict[Any, Any]) -> Hello | None:
    """A hello that only says what those of every version do, so that it can be refused by name; None if it is none."""
    known: dict[str, Any] = {name: value.get(name) for name in HELLO_OF_EVERY_VERSION}
    conditions = tuple(_condition("hello", one) for one in fields(Hello) if one.name in known)
    if not _sound(HELLO_OF_EVERY_VERSION, conditions)(*known.values()) or known["version"] == VERSION:
        return None
    neutral: dict[str, Any] = dict.fromkeys(("incarnation", "outlet", "upstream", "inbox", "suspects_of"), "")
    return Hello(**known, **neutral, secret=b"", queue_messages=0, suspects=[])


def _with_defaults(frame: type[Any], value: dict[Any, Any]) -> list[Any]:
    """The values of all fields: of a missing one what MISSING says, else None, which no field may be."""
    missing = MISSING.get(frame.kind, {})
    return [value.get(one.name, missing.get(one.name)) for one in fields(frame)]


def _fault(frame: type[Any], values: Iterable[Any]) -> PeerError:
    """The first field that is not what it must be."""
    kind = frame.kind
    for one, value in zip(fields(frame), values, strict=True):
        if not _sound((one.name,), (_condition(kind, one),))(value):
            break
    return PeerError(f"{kind}.{one.name} is {_show(value)}", kind, one.name)


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


def _show(value: Any) -> str:
    """For an error's text; an int of over 4,300 digits has no repr."""
    try:
        return repr(value)[:160]
    except ValueError:
        return f"a {type(value).__name__}"
