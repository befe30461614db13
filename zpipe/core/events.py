"""What happens to a stage. Each event is a value, which the shell hands to `Stage.handle` with the time. Must not live here: what
follows from one.

No event is frozen, since that makes each three times as dear. None is changed once it is made. Where many messages come together
there is one event for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from zpipe.core.actions import Action
from zpipe.core.policy import LimitPolicy
from zpipe.core.processing.replays import Revived
from zpipe.core.wire.cbor import Encoded
from zpipe.core.wire.peer_address import NO_KEY, ShownKey
from zpipe.core.work.task import Chunk, DeadLetter, Result, Task

Peer = tuple[str, int]
"""An instance: its stage and its number."""


class Event:
    __slots__ = ()


# ---- frames


@dataclass(slots=True)
class ParcelReceived(Event):
    """A parcel in the inbox."""

    header: bytes
    body: Encoded


@dataclass(slots=True)
class FeedbackReceived(Event):
    """A frame on the feedback ROUTER, by the connection `route`. `sender`: who sent it, of a tcp peer exactly its host; `shown`:
    what the sender has proved by a key."""

    route: bytes
    frame: bytes
    sender: str
    shown: ShownKey = NO_KEY


@dataclass(slots=True)
class UpstreamReceived(Event):
    """A frame from the feedback or control of an upstream instance."""

    peer: Peer
    frame: bytes


@dataclass(slots=True)
class FrameMalformed(Event):
    """A frame broke the protocol and was dropped."""


# ---- neighbours


@dataclass(slots=True)
class UpstreamConnected(Event):
    peer: Peer


@dataclass(slots=True)
class UpstreamDisconnected(Event):
    peer: Peer


@dataclass(slots=True)
class UpstreamExpected(Event):
    """The instance belongs to this run, whether or not it is there yet: the input does not end before it says its end."""

    peer: Peer


@dataclass(slots=True)
class UpstreamGone(Event):
    """The instance stopped at the end of its stream before this incarnation started."""

    peer: Peer


@dataclass(slots=True)
class UpstreamLeft(Event):
    """The instance left as it was told, maybe before this incarnation started, and its siblings go on."""

    peer: Peer


@dataclass(slots=True)
class DownstreamGone(Event):
    """A mark on disk says that an instance of that stage stopped at the end of this run's stream: it was told."""

    stage: str


@dataclass(slots=True)
class SessionReady(Event):
    session: bytes


@dataclass(slots=True)
class SessionLost(Event):
    """Disconnected, or a send would have blocked."""

    session: bytes


class HearingLink(Protocol):
    """A link that does not run over ZeroMQ."""

    def heard(self, what: Any, now: float) -> Iterable[Action]:
        """Takes in what its shell has to tell, of a type that only the two know."""


@dataclass(slots=True)
class LinkHeard(Event):
    link: HearingLink
    what: Any


# ---- the plugin


@dataclass(slots=True)
class Opened(Event):
    """The plugin is open and the sockets are bound."""


@dataclass(slots=True)
class Failed(Event):
    """The instance cannot go on."""


@dataclass(slots=True)
class CallFinished(Event):
    task: Task
    result: Result


@dataclass(slots=True)
class OutputsEmitted(Event):
    """Outputs of a task that is still under way."""

    task: Task
    chunks: list[Chunk]


@dataclass(slots=True)
class SourceYielded(Event):
    """`count` messages up to `position`: those in `chunks`, and records that could not be read, in `letters`. With `ids` the
    source hears of each of them by its id when it is finished; then `chunks` and `letters` say whose they are."""

    chunks: list[Chunk]
    position: Any
    count: int
    letters: list[DeadLetter]
    ids: list[str] | None = None


@dataclass(slots=True)
class SourceEnded(Event):
    """The iterator is exhausted, or closed at the core's wish."""


@dataclass(slots=True)
class PositionStored(Event):
    """A position is durable that covers `count` messages; `ended`: that the source ran to its end is, too."""

    count: int
    ended: bool


# ---- dead letters


@dataclass(slots=True)
class LetterWritten(Event):
    """The dead letter is durable, or could not be written."""

    letter: DeadLetter
    stored: bool


@dataclass(slots=True)
class LetterPosted(Event):
    """The dead letter leaves as a message: `body` is a section with that message alone."""

    letter: DeadLetter
    body: bytes


@dataclass(slots=True)
class LettersCounted(Event):
    """So many dead letters are in the store now."""

    messages: int
    bytes_: int


@dataclass(slots=True)
class LetterRemoved(Event):
    """The row of a replayed dead letter is gone, durably."""

    number: int


@dataclass(slots=True)
class LettersRevived(Event):
    """Dead letters are messages again, no more of them than `Letters.room`."""

    letters: list[Revived]


# ---- the operator, and time


@dataclass(slots=True)
class OrderGiven(Event):
    """`what` is a request of PROTOCOL.md 5.10, given on this machine: "leave" by a signal, "pause" as it was before a restart."""

    what: str


@dataclass(slots=True)
class LimitChanged(Event):
    """Another limit on the calls of the plugin from now on."""

    limit: LimitPolicy | None


@dataclass(slots=True)
class IntervalChanged(Event):
    """Snapshots are published this often from now on."""

    seconds: float


@dataclass(slots=True)
class TimePassed(Event):
    """Nothing has happened. The next turn looks at everything nevertheless."""
