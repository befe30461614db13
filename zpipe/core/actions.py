"""What the core asks the shell to do. Each action is a value. Must not live here: doing it, or deciding it.

The shell performs each without blocking; what fails comes back as an event (`SessionLost`, `LetterWritten` with `stored` false).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zpipe.core.work.task import DeadLetter, Task


class Action:
    __slots__ = ()


@dataclass(slots=True)
class OpenSession(Action):
    """Connect a new PUSH to `address`, where the same `key` must be proved as by the sender of the hello ("": none). Answered by
    SessionReady or SessionLost."""

    session: bytes
    address: str
    high_water_mark: int
    key: str = ""


@dataclass(slots=True)
class CloseSession(Action):
    session: bytes


@dataclass(slots=True)
class SendParcel(Action):
    """Send at once or report SessionLost: within the credit a send never blocks on a sound session."""

    session: bytes
    header: bytes
    body: bytes


@dataclass(slots=True)
class Reply(Action):
    """To a consumer or operator on the feedback ROUTER, by the route its frame came with."""

    route: bytes
    frame: bytes


@dataclass(slots=True)
class Tell(Action):
    """To the feedback of an upstream instance (stage, instance), by the DEALER connected to it."""

    peer: tuple[str, int]
    frame: bytes


@dataclass(slots=True)
class Publish(Action):
    topic: bytes
    frame: bytes


@dataclass(slots=True)
class ToLink(Action):
    """Hand `what` to the link's shell of this name: an order whose type only the link and its shell know."""

    shell: str
    what: Any


@dataclass(slots=True)
class LogEvent(Action):
    """Something that people should read in the log. The shell limits the rate, since others can cause any number of these.

    warning    it is logged as a warning, else as information
    repeats    it is logged again although the same was logged just before
    alike      events of one name are the same if this is equal, whatever their fields say; "": if their text is
    traceback  of the exception that the event reports
    """

    event: str
    fields: dict[str, Any]
    warning: bool = True
    repeats: bool = False
    alike: str = ""
    traceback: str = ""


@dataclass(slots=True)
class StartTask(Action):
    task: Task


@dataclass(slots=True)
class StoreDeadLetter(Action):
    """Write a dead letter durably, then report LetterWritten."""

    letter: DeadLetter


@dataclass(slots=True)
class SendDeadLetter(Action):
    """Encode a dead letter as a message, then report LetterPosted; one that cannot be sent is written like any other."""

    letter: DeadLetter


@dataclass(slots=True)
class TakeLetters(Action):
    """Dead letters are marked for replay: read them from the store and hand them in as LettersRevived, at the rate asked for."""


@dataclass(slots=True)
class RemoveLetter(Action):
    """The replayed letter of this number is finished: delete it durably, then report LetterRemoved."""

    number: int


@dataclass(slots=True)
class Commit(Action):
    """Make `position` durable: all up to it is finished. `count` messages in all; `ended`: the source has no more."""

    position: Any
    count: int
    ended: bool


@dataclass(slots=True)
class Ack(Action):
    """Tell the source that these messages are finished."""

    ids: list[str]


@dataclass(slots=True)
class LimitOutputs(Action):
    """Outputs are bounded. A source may emit up to `limit` messages in all; workers may emit while it is not 0."""

    limit: int


@dataclass(slots=True)
class CloseSource(Action):
    pass


@dataclass(slots=True)
class Remember(Action):
    """Keep across restarts whether the operator has paused the instance."""

    paused: bool


@dataclass(slots=True)
class Stop(Action):
    """This incarnation has stopped (`ended`: at the end of the stream): leave a mark on disk that says so."""

    ended: bool


@dataclass(slots=True)
class Exit(Action):
    failed: bool
