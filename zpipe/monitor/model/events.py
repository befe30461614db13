"""What has happened lately, found by comparing each snapshot of an instance with the one before. Pure: no clock and no layout."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from zpipe.monitor.formatting import crash_text

MOST_EVENTS = 200
GROWING = "growing"
"""The reason of a limit that grows; all others are of one that is taken back."""
COUNTED = {
    "dead": ("dead letter", "dead letters"),
    "malformed": ("frame that broke the protocol", "frames that broke the protocol"),
}


class Event(NamedTuple):
    """`bad`: a person may have to do something about it."""

    at: float
    text: str
    bad: bool


class Events:
    """`recent`, oldest first. Takes sound snapshots as they come, and the model's values for who has fallen silent."""

    def __init__(self) -> None:
        self.recent: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._last: dict[tuple[str, int], dict[str, Any]] = {}
        self._silent: set[tuple[str, int]] = set()
        self._repeated: dict[tuple[str, str], tuple[Event, int]] = {}

    def add(self, snapshot: dict[str, Any], at: float) -> None:
        key = snapshot["stage"], snapshot["instance"]
        before = self._last.get(key)
        self._last[key] = snapshot
        if before is None:
            return
        name = f"{key[0]}.{key[1]}"
        if before["incarnation"] != snapshot["incarnation"]:
            crash = snapshot.get("last_crash") or {}
            why = f" ({crash_text(crash)})" if crash and crash != before.get("last_crash") else ""
            self._note(at, f"{name} was restarted{why}: incarnation {snapshot['incarnation']}", bad=True)
            return
        for text, bad in _changes(before, snapshot):
            self._note(at, f"{name} {text}", bad)
        self._limit(at, name, before.get("limit") or {}, snapshot.get("limit") or {})
        self._count(at, name, before, snapshot)

    def note_silence(self, value: dict[str, Any]) -> None:
        """Notes who has not been heard of for too long, and who is heard again."""
        silent = {(name, instance) for name, stage in value["stages"].items() for instance in stage["silent"]}
        for stage, instance in sorted(silent - self._silent):
            self._note(value["at"], f"{stage}.{instance} is silent", bad=True)
        for stage, instance in sorted(self._silent - silent):
            self._note(value["at"], f"{stage}.{instance} is heard again", bad=False)
        self._silent = silent

    def _note(self, at: float, text: str, bad: bool) -> None:
        self.recent.append(Event(at, text, bad))
        self._repeated.clear()

    def _note_repeated(
        self, at: float, name: str, kind: str, times: int, text: Callable[[int], str], bad: bool
    ) -> None:
        """What repeats is one event until something else happens, or a dead letter a second would leave no room for others."""
        before = self._repeated.get((name, kind))
        if before is not None:
            times += before[1]
            with suppress(ValueError):  # It is so old that it is not kept any more.
                self.recent.remove(before[0])
        event = Event(at, f"{name} {text(times)}", bad)
        self.recent.append(event)
        self._repeated[name, kind] = event, times

    def _count(self, at: float, name: str, before: dict[str, Any], after: dict[str, Any]) -> None:
        for kind, (one, many) in COUNTED.items():
            more, total = after.get(kind, 0) - before.get(kind, 0), after.get(kind, 0)
            if more > 0:
                words = partial(_counted, one, many, total)
                self._note_repeated(at, name, kind, more, words, bad=True)

    def _limit(self, at: float, name: str, before: dict[str, Any], after: dict[str, Any]) -> None:
        """The limit may have changed more than once since: a reason that does not fit the whole change is left out."""
        old, new, reason = before.get("limit"), after.get("limit"), after.get("reason")
        if old is None or new is None or int(old) == int(new):
            return
        why = f" ({reason})" if reason and (new > old) == (reason == GROWING) else ""
        text = f"limit {old:g} -> {new:g}{why}"
        self._note_repeated(
            at, name, "limit", 1, lambda n: text + (f", {n} changes in a row" if n > 1 else ""), bad=new < old
        )


def _counted(one: str, many: str, total: int, more: int) -> str:
    return f"{more:,} {one if more == 1 else many}, {total:,} in all"


def _changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    if before["state"] != after["state"]:
        yield f"is {after['state']}", after["state"] == "FAILED"
    if bool(before.get("paused")) != bool(after.get("paused")):
        yield "is paused" if after.get("paused") else "goes on", False
    for key, words in (("held_by", "is held up"), ("stopped_by", "takes no more")):
        if bool(before.get(key)) != bool(after.get(key)):
            yield f"{words}: {after[key]}" if after.get(key) else "works again", bool(after.get(key))
    known = {row["reason"] for row in before.get("refusals") or ()}
    for row in after.get("refusals") or ():
        if row["reason"] not in known:
            yield row["reason"], True
    links = {(row.get("outlet"), row.get("to")): row for row in before["links"]}
    for row in after["links"]:
        yield from _on_link(links.get((row.get("outlet"), row.get("to")), {}), row)


def _on_link(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    again = after.get("redelivered", 0) - before.get("redelivered", 0)
    if before and again > 0:
        yield f"redelivered {again:,} to {after.get('to')}", True
    lives = {str(row.get("incarnation")) for row in after.get("consumers", ())}
    for row in before.get("consumers", ()):
        if str(row.get("incarnation")) not in lives:
            yield f"lost {after.get('to')}.{row.get('instance')}", True
