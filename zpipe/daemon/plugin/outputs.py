"""The outputs of a plugin as sections to send. Gathering outputs by outlet belongs here, and encoding them. Must not live here:
the ids of outputs, and what an answer of the plugin means (`task_run`).

An output that cannot be sent (not CBOR, too large) fails the message it came from, and only that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zpipe.core.policy import LinkPolicy
from zpipe.core.wire import section
from zpipe.core.wire.section import MAX_ORIGIN_S, Columns
from zpipe.core.work.task import DEAD, Chunk, Failure, Verdict
from zpipe.messages import Message


class OutputSections:
    """Outputs for one outlet, in parallel arrays. `owners` are the indexes of the messages they were made from.

    in_order  the owners are a run;  of_all: each output was made from the whole batch, whatever its owner says

    The arrays that outputs came in are kept as they are until there are more: mostly there are none.
    """

    __slots__ = ("_came", "_columns", "in_order", "of_all", "outlet", "owners")

    def __init__(self, outlet: str, of_all: bool = False) -> None:
        self.outlet = outlet
        self._came: Columns | None = None
        self._columns: list[list[Any]] = []
        self.owners: list[int] = []
        self.in_order = True
        self.of_all = of_all

    def add(self, payload: Any, made_from: Message, id: str, owner: int) -> None:
        """An output that is a payload alone, and in all else like the message that it was made from."""
        self._add(id, made_from.origin, payload, made_from.headers, owner)

    def add_message(self, one: Message, made_from: Message, id: str, owner: int) -> None:
        """An output that the plugin gave as a Message. What it leaves out is as in the message that it was made from."""
        headers = one.headers if one.headers is not None else made_from.headers
        self._add(one.id or id, one.origin or made_from.origin, one.payload, headers, owner)

    def _add(self, id: str, origin: float, payload: Any, headers: Any, owner: int) -> None:
        ids, origins, payloads, all_headers = self._own()
        ids.append(id)
        origins.append(origin)
        payloads.append(payload)
        all_headers.append(headers)
        self.owners.append(owner)
        self.in_order = False

    def extend(self, columns: Columns, first_owner: int) -> None:
        """Adds one output for each message from `first_owner` on."""
        if not self.owners:
            self._came = columns
        else:
            for column, more in zip(self._own(), columns.filled(), strict=True):
                column += more or ()
            self.in_order = self.in_order and self.owners[-1] + 1 == first_owner
        self.owners += range(first_owner, first_owner + len(columns.ids))

    def _own(self) -> list[list[Any]]:
        """All columns as lists of this object's own, which may be added to."""
        if self._came is not None:
            self._columns, self._came = [list(column or ()) for column in self._came.filled()], None
        elif not self._columns:
            self._columns = [[] for _ in Columns._fields]
        return self._columns

    def clear(self) -> None:
        """Forgets the outputs, in place."""
        self._came, self._columns = None, []
        self.owners.clear()
        self.in_order = True

    def __len__(self) -> int:
        return len(self.owners)

    def cut(self, start: int, stop: int) -> Columns:
        if self._came is not None:
            return self._came if stop - start == len(self.owners) else self._came.part(start, stop)
        return Columns._make(self._columns).part(start, stop).trimmed()

    def encode(self, policy: LinkPolicy, failures: dict[int, Failure], message_bytes: int) -> list[Chunk]:
        """The sections, each within the parcel limits where a single message allows it.

        Messages whose outputs cannot be sent are put into `failures` by owner; their other outputs may be in the result.
        `message_bytes` is how large an output is likely to be: what turns out too large is encoded twice.
        """
        count = len(self.owners)
        if count == 1:
            return self._encode(0, 1, policy, failures)
        chunks: list[Chunk] = []
        most = fitting_messages(policy, message_bytes)
        for start in range(0, count, most):
            chunks += self._encode(start, min(start + most, count), policy, failures)
        return chunks

    def without(self, failures: dict[int, Failure]) -> OutputSections:
        """The outputs of messages that did not fail."""
        kept = OutputSections(self.outlet, self.of_all)
        for at, owner in enumerate(self.owners):
            if owner not in failures:
                kept.extend(self.cut(at, at + 1), owner)
        return kept

    def _owned(self, start: int, stop: int) -> Sequence[int] | None:
        """The owners of outputs [start, stop): a range where they are a run, which costs nothing further on; None if each was
        made from the whole batch."""
        if self.of_all:
            return None
        return (
            range(self.owners[start], self.owners[start] + stop - start) if self.in_order else self.owners[start:stop]
        )

    def _encode(self, start: int, stop: int, policy: LinkPolicy, failures: dict[int, Failure]) -> list[Chunk]:
        try:
            body = section.encode(*self.cut(start, stop), policy.codec)
        except ValueError as error:
            if stop - start == 1:
                failures[self.owners[start]] = Failure(
                    self.owners[start], f"its output {error}", verdict=Verdict.REJECT
                )
                return []
            # One by one, not halved: an output that cannot be sent may take seconds to encode. This way it is encoded twice, by
            # halving nine times.
            return [chunk for at in range(start, stop) for chunk in self._encode(at, at + 1, policy, failures)]
        else:
            if len(body) <= policy.parcel_bytes or (stop - start == 1 and len(body) <= policy.max_message_bytes):
                return [Chunk(self.outlet, stop - start, body, self._owned(start, stop))]
            if stop - start == 1:
                reason = f"its output has {len(body)} bytes, over the limit of {policy.max_message_bytes} a message"
                failures[self.owners[start]] = Failure(self.owners[start], reason, verdict=Verdict.REJECT)
                return []
        most = fitting_messages(policy, len(body) // (stop - start))
        pieces = ((at, min(at + most, stop)) for at in range(start, stop, most))
        return [chunk for piece in pieces for chunk in self._encode(*piece, policy, failures)]


def fitting_messages(policy: LinkPolicy, message_bytes: int) -> int:
    """How many messages of about that size make a section: an eighth less than what fits, as sizes differ."""
    return max(1, min(policy.section_messages, policy.parcel_bytes * 7 // (8 * max(1, message_bytes))))


def encode_all(
    outputs: list[OutputSections], policy: LinkPolicy, failures: dict[int, Failure], message_bytes: int
) -> list[Chunk]:
    """The sections of all outlets, without any output of a message that failed, here or before."""
    while True:
        known = len(failures)
        chunks = [chunk for sections in outputs for chunk in sections.encode(policy, failures, message_bytes)]
        if len(failures) == known:
            return chunks
        outputs = [sections.without(failures) for sections in outputs]


def check_message(message: Any) -> None:
    """Raises TypeError for one that would not decode at the consumer, so that it fails where it was made."""
    plain = isinstance(message.id, str) and isinstance(message.outlet, str)
    if not plain or not isinstance(message.headers, dict | None):
        raise TypeError("a Message's id and outlet are text, its headers a dict or None")
    if message.outlet == DEAD:
        raise ValueError(
            f"the outlet {DEAD!r} is that of the stage's dead letters: raise, or return zpipe.Reject(reason)"
        )
    if not isinstance(message.origin, int | float) or not 0 <= message.origin < MAX_ORIGIN_S:
        raise TypeError(f"a Message's origin is seconds since the epoch, not {message.origin!r}")
