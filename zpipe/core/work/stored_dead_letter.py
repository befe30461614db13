"""A dead letter as it is kept and shown, and its name. Must not live here: where dead letters are kept, and how they look."""

from __future__ import annotations

from typing import Any, NamedTuple

MESSAGE, RECORD, SECTION, PROGRAM = "message", "record", "section", "program"
"""What its payload is: a message's; what a source could not read; the bytes of a section that could not be decoded; what a
program in another language handed in."""


class StoredDeadLetter(NamedTuple):
    """A row of its instance's store, which never uses a `number` twice.

    at, origin   seconds since the epoch: when it died last, when its source produced it
    attempts     calls of the plugin that failed;  deaths: those that ended their worker; over all replays
    replays      how often it was replayed in vain;  replay_rate: it is to be replayed (None: it is not)
    source       the input that it came by, as the config names it; "" of a record, and in what an earlier zpipe wrote
    """

    stage: str
    instance: int
    number: int
    id: str
    at: float
    origin: float
    incarnation: str
    kind: str
    reason: str
    traceback: str
    attempts: int
    deaths: int
    history: list[str]
    replays: int
    replay_rate: float | None
    headers: Any
    payload: Any
    source: str = ""

    @property
    def name(self) -> str:
        return letter_name(self.stage, self.instance, self.number)


def letter_name(stage: str, instance: int, number: int) -> str:
    """What an operator calls it by."""
    return f"{stage}.{instance}/{number}"
