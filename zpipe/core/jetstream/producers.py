"""Where the producers of a link stand, by what each has written into the bucket. Must not live here: the stream.

An entry is that of one instance on one link. It outlives the instance, so one that was there before this life listened may be of
an earlier run: that its instance has ended is believed only if it is of this very run, or of an incarnation that this life has
heard of before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

OPEN, FLUSHED, STOPPED, LEFT = "open", "flushed", "stopped", "left"
"""Messages may come; none will, unless its own upstream redelivers some; none can come; it left, and its siblings go on."""
_STATES = frozenset({OPEN, FLUSHED, STOPPED, LEFT})
_DEFAULT_OUTLET = "="


def key_prefix(upstream: str, outlet: str, consumer: str) -> str:
    """What the keys of a link's entries begin with; the number of the instance follows."""
    return f"{upstream}.{outlet or _DEFAULT_OUTLET}.{consumer}."


class Standing(NamedTuple):
    """One instance of the upstream stage, as it is known here."""

    incarnation: str
    run: str
    state: str

    def encode(self) -> bytes:
        return json.dumps(self._asdict()).encode()


def _decode(value: bytes) -> Standing | None:
    try:
        found: Any = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in Standing._fields):
        return None
    return Standing(found["incarnation"], found["run"], found["state"]) if found["state"] in _STATES else None


def _goes_on(before: Standing, standing: Standing) -> bool:
    """Whether `standing` must be later than `before`. In a run no incarnation follows one that has stopped, but one may follow
    one that has left or flushed."""
    if before.incarnation == standing.incarnation:
        return before.state == OPEN or standing.state in (STOPPED, LEFT)
    return before.state == OPEN and standing.state == STOPPED


class Producers:
    """The producers of one link.

    run  the run that this instance belongs to, "" if to none;  expected: instances that are to run in it
    """

    def __init__(self, upstream: str, outlet: str, consumer: str, run: str, expected: Iterable[int]) -> None:
        self._upstream = upstream
        self._prefix = key_prefix(upstream, outlet, consumer)
        self._run = run
        self._known: dict[int, Standing | None] = dict.fromkeys(expected)

    def hear(self, key: str, value: bytes, live: bool, again: bool = False) -> bool:
        """An entry of the bucket, or that it was deleted (no value): then nobody waits for the instance. True: something has
        changed. `again`: it was read once more, in case a live one was missed, and may be an old one."""
        number = key.removeprefix(self._prefix)
        if number == key or not (number.isascii() and number.isdigit()):
            return False
        if live and not value:
            return self._forget(int(number))
        if (standing := _decode(value)) is None:
            return False
        instance, known = int(number), None
        if (before := self._known.get(instance)) is not None:
            known = before.incarnation
            if again and not _goes_on(before, standing):
                return False
        of_this_life = live or known == standing.incarnation or bool(self._run and standing.run == self._run)
        if (standing.state != OPEN and not of_this_life) or before == standing:
            return False
        self._known[instance] = standing
        return True

    def _forget(self, instance: int) -> bool:
        known = instance in self._known
        self._known.pop(instance, None)
        return known

    @property
    def ended(self) -> bool:
        """Somebody has said the end, and nobody who is known may still have something."""
        return self._every(FLUSHED, STOPPED)

    @property
    def stopped(self) -> bool:
        return self._every(STOPPED)

    def _every(self, *over: str) -> bool:
        known = [one.state if one is not None else OPEN for one in self._known.values()]
        return any(state in over for state in known) and all(state in (*over, LEFT) for state in known)

    def waiting_for(self) -> list[str]:
        """Names of those that have not stopped; the stage where none is known."""
        if not self._known:
            return [self._upstream]
        return [
            f"{self._upstream}.{number}"
            for number, one in sorted(self._known.items())
            if one is None or one.state not in (STOPPED, LEFT)
        ]
