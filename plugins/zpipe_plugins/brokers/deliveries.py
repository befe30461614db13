"""What a source has taken from its broker and not acknowledged there.

A broker gives a message again when it was not acknowledged in time, or when the connection was lost: also one that is
still on its way through the pipeline. Such a message must not be taken a second time, and is to be acknowledged as
the broker now names it. Must not live here: a connection.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

HandleT = TypeVar("HandleT")


class _Copies(Generic[HandleT]):
    """Messages of one position, and how many of them the pipeline has finished. One whose handle is None comes again, unless the
    broker has got its acknowledgement after all."""

    __slots__ = ("finished", "handles")

    def __init__(self, handle: HandleT) -> None:
        self.handles: list[HandleT | None] = [handle]
        self.finished = 0


class Deliveries(Generic[HandleT]):
    """By the position of each message. A handle is what an acknowledgement is made with.

    The source's thread takes, another one finishes. Several messages may have one position, where that is chosen by who published
    them: all of them are acknowledged once all are finished, since which of them was finished cannot be known.
    """

    def __init__(self, times_out: bool = False) -> None:
        """times_out: the broker gives a message again that takes long, too, and then wants the newest handle."""
        self._times_out = times_out
        self._copies: dict[str, _Copies[HandleT]] = {}
        self._finished: set[str] = set()
        self._lock = threading.Lock()

    def take(self, position: str, handle: HandleT, again: bool) -> bool:
        """The broker has given a message. False: it is on its way or finished, so it is not to be taken.

        again  it was given before, perhaps to somebody else. Else it is another one, whatever its position
        """
        with self._lock:
            copies = self._copies.get(position)
            if copies is None:
                self._copies[position] = _Copies(handle)
                return True
            if again and (None in copies.handles or self._times_out):
                lost = copies.handles.index(None) if None in copies.handles else -1
                copies.handles[lost] = handle
                return False
            copies.handles.append(handle)
            self._finished.discard(position)
            return True

    def finish(self, positions: Iterable[str]) -> None:
        """The pipeline has finished these: their acknowledgements are owed from now on."""
        with self._lock:
            for position in positions:
                if (copies := self._copies.get(position)) is not None:
                    copies.finished += 1
                    if copies.finished >= len(copies.handles):
                        self._finished.add(position)

    def owed(self) -> dict[str, list[HandleT]]:
        """Acknowledgements that can be made now. One without a handle waits until the broker gives its message again, and the
        others of its position do not wait for that."""
        with self._lock:
            found = {position: self._copies[position].handles for position in self._finished}
            given = {position: [one for one in handles if one is not None] for position, handles in found.items()}
            return {position: handles for position, handles in given.items() if handles}

    def paid(self, acknowledged: Mapping[str, list[HandleT]]) -> None:
        with self._lock:
            for position, handles in acknowledged.items():
                copies = self._copies[position]
                copies.finished -= len(handles)
                copies.handles = [handle for handle in copies.handles if handle not in handles]
                if copies.finished < len(copies.handles) or not copies.handles:
                    self._finished.discard(position)
                if not copies.handles:
                    del self._copies[position]

    def disconnected(self) -> None:
        """No handle is good for anything any more: the broker gives all of these messages again."""
        with self._lock:
            for copies in self._copies.values():
                copies.handles = [None] * len(copies.handles)

    def in_hand(self) -> list[HandleT]:
        """Of what is on its way through the pipeline."""
        with self._lock:
            held = [c for position, c in self._copies.items() if position not in self._finished]
            return [handle for copies in held for handle in copies.handles if handle is not None]
