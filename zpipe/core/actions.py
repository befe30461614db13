"""What the core asks the shell to do. Each action is a value. Must not live here: doing it, or deciding it.

The shell performs each without blocking; what fails comes back as an event (`session_lost`, `written(stored=False)`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zpipe.core.work.task import DeadLetter, Task


class Action:
    __slots__ = ()


@dataclass(slots=True)
class OpenSession(Action):
    """Connect a PUSH of its own to `address`, whose owner has to have the same `key` as the sender of the hello; answer with
    session_ready or session_lost."""

    session: bytes
    address: str
    high_water_mark: int
    key: str = ""


@dataclass(slots=True)
class CloseSession(Action):
    session: bytes


@dataclass(slots=True)
class SendParcel(Action):
    """Send at once or report session_lost: within the credit a send never blocks on a sound session."""

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
    """For the shell of a link, by its name: what its link asks it to do, in words that the two of them share."""

    shell: str
    what: Any


@dataclass(slots=True)
class LogEvent(Action):
    """Something that people should read in the log. The shell limits the rate, since others can cause any number of these.

    event      its name;  fields: by name;  warning: a peer was refused, or refuses;  repeats: the same text again is news
    alike      events of one name with the same of this are no news to each other, whatever their fields say; "": their text
    traceback  of the exception that it is about
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
    """Write a dead letter durably, then report it `written`."""

    letter: DeadLetter


@dataclass(slots=True)
class SendDeadLetter(Action):
    """Encode a dead letter as a message, then report `posted`; one that cannot be sent is written like any other."""

    letter: DeadLetter


@dataclass(slots=True)
class TakeLetters(Action):
    """Letters are marked for replay: read them and give them to `replay`, no faster than they may come."""


@dataclass(slots=True)
class RemoveLetter(Action):
    """The replayed letter of this number is finished: delete it durably, then report `letter_removed`."""

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
    """All is finished and said: leave a mark that this incarnation stopped (`ended`: at the end of the stream)."""

    ended: bool


@dataclass(slots=True)
class Exit(Action):
    failed: bool
