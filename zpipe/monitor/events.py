"""What has happened lately, read from how snapshots change: a line an event.

May live here: comparing an instance's snapshot with the one before. No clock, no layout.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

KEPT = 200
COUNTED = {
    "dead": ("dead letter", "dead letters"),
    "malformed": ("frame that broke the protocol", "frames that broke the protocol"),
}


class Event(NamedTuple):
    """`bad`: somebody may have to do something about it."""

    at: float
    text: str
    bad: bool


class Events:
    """`recent`, oldest first. Takes sound snapshots as they come, and the model's values for who has fallen silent."""

    def __init__(self) -> None:
        self.recent: deque[Event] = deque(maxlen=KEPT)
        self._last: dict[tuple[str, int], dict[str, Any]] = {}
        self._silent: set[tuple[str, int]] = set()
        self._counted: tuple[str, str, int] | None = None

    def add(self, snapshot: dict[str, Any], at: float) -> None:
        key = snapshot["stage"], snapshot["instance"]
        before = self._last.get(key)
        self._last[key] = snapshot
        if before is None:
            return
        name = f"{key[0]}.{key[1]}"
        if before["incarnation"] != snapshot["incarnation"]:
            self._note(at, f"{name} was restarted: incarnation {snapshot['incarnation']}", bad=True)
            return
        for text, bad in _changes(before, snapshot):
            self._note(at, f"{name} {text}", bad)
        for kind in COUNTED:
            more = snapshot.get(kind, 0) - before.get(kind, 0)
            if more > 0:
                self._count(at, name, kind, more, snapshot[kind])

    def look(self, value: dict[str, Any]) -> None:
        """Notes who has not been heard of for too long, and who is heard again."""
        silent = {(name, instance) for name, stage in value["stages"].items() for instance in stage["silent"]}
        for stage, instance in sorted(silent - self._silent):
            self._note(value["at"], f"{stage}.{instance} is silent", bad=True)
        for stage, instance in sorted(self._silent - silent):
            self._note(value["at"], f"{stage}.{instance} is heard again", bad=False)
        self._silent = silent

    def _note(self, at: float, text: str, bad: bool) -> None:
        self.recent.append(Event(at, text, bad))
        self._counted = None

    def _count(self, at: float, name: str, key: str, more: int, total: int) -> None:
        """Many in a row are one event: a dead letter a second would leave no room for what else happens."""
        if self._counted is not None and self._counted[:2] == (name, key):
            more += self._counted[2]
            self.recent.pop()
        one, many = COUNTED[key]
        self._note(at, f"{name} {more:,} {one if more == 1 else many}, {total:,} in all", bad=True)
        self._counted = name, key, more


def _changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    if before["state"] != after["state"]:
        yield f"is {after['state']}", after["state"] == "FAILED"
    if bool(before.get("paused")) != bool(after.get("paused")):
        yield "is paused" if after.get("paused") else "goes on", False
    yield from _limit(before.get("limit") or {}, after.get("limit") or {})
    links = {(row.get("outlet"), row.get("to")): row for row in before["links"]}
    for row in after["links"]:
        yield from _on_link(links.get((row.get("outlet"), row.get("to")), {}), row)


def _limit(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    old, new = before.get("limit"), after.get("limit")
    if old is not None and new is not None and int(old) != int(new):
        why = f" ({after['reason']})" if after.get("reason") else ""
        yield f"limit {old:g} -> {new:g}{why}", new < old


def _on_link(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    again = after.get("redelivered", 0) - before.get("redelivered", 0)
    if before and again > 0:
        yield f"redelivered {again:,} to {after.get('to')}", True
    lives = {str(row.get("incarnation")) for row in after.get("consumers", ())}
    for row in before.get("consumers", ()):
        if str(row.get("incarnation")) not in lives:
            yield f"lost {after.get('to')}.{row.get('instance')}", True
