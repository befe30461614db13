"""The ledger of chained acknowledgement: which inputs wait for which outputs.

May live here: derivations and the counters of the stage's identity. It knows no session: an input is anything that can be
told it is finished.

An input is acked only when everything derived from it is finished. `Derivation` has all inputs of a task wait for all of
its outputs, which is what a batch made into something else needs. `EachDerivation` follows every message by itself, since one
that is tried again for minutes must not hold up what shared its task. Neither has an object for each message: at 300 k
messages/s that would be the bottleneck.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

from zpipe.core.ranges import RangeSet

Owners = Sequence[int] | None
"""For each message of a section the index of the input it was made from; None: from all of them."""


class Responsibility(Protocol):
    """A share of an input that is owed an ack."""

    def finish(self) -> None:
        """Everything derived from it is finished."""


class Divisible(Responsibility, Protocol):
    """A share of several messages that may finish one by one."""

    @property
    def count(self) -> int: ...

    def part(self, start: int, stop: int) -> Responsibility: ...


class Derivation:
    """All inputs wait for all outputs: they finish once it is closed and every output is settled."""

    __slots__ = ("_inputs", "_open", "_pending")

    def __init__(self, inputs: Sequence[Responsibility]) -> None:
        self._inputs = list(inputs)
        self._pending = 0
        self._open = True

    def add_inputs(self, shares: Sequence[Responsibility]) -> None:
        self._inputs += shares

    def expect(self, messages: int = 1, owners: Owners = None) -> None:
        """So many more output messages are under way on a link."""
        self._pending += messages

    def settle(self, messages: int = 1, owners: Owners = None) -> None:
        """So many of them are acked, or dead letters on disk."""
        assert self._pending >= messages, "settled more than was expected"
        self._pending -= messages
        if not self._pending and not self._open:
            self._finish()

    def close(self) -> None:
        """No more outputs will come."""
        assert self._open, "closed twice"
        self._open = False
        if not self._pending:
            self._finish()

    def _finish(self) -> None:
        for share in self._inputs:
            share.finish()
        self._inputs = []


class EachDerivation(Derivation):
    """Every input message waits for its own outputs. All outputs must be expected before the first is settled.

    As long as each input has one output on one link, and they come in runs, only ranges are kept; else a count for each input.
    """

    __slots__ = ("_counts", "_each", "_expected", "_stops")

    def __init__(self, inputs: Sequence[Divisible]) -> None:
        super().__init__(())
        self._each = inputs
        self._stops = list(accumulate(share.count for share in inputs))
        self._expected = RangeSet()
        self._counts: list[int] | None = None

    def expect(self, messages: int = 1, owners: Owners = None) -> None:
        assert owners is not None
        if self._counts is None:
            start, stop = owners[0], owners[-1] + 1
            if type(owners) is range and not self._expected.overlaps(start, stop):
                self._expected.add(start, stop)
                return
            self._counts = [0] * self._stops[-1]
            for start, stop in self._expected:
                self._counts[start:stop] = [1] * (stop - start)
        counts = self._counts
        for owner in owners:
            counts[owner] += 1

    def settle(self, messages: int = 1, owners: Owners = None) -> None:
        assert owners is not None and not self._open
        counts = self._counts
        if counts is None:
            self._finish_run(owners[0], owners[-1] + 1)
            return
        for owner in owners:
            counts[owner] -= 1
            if not counts[owner]:
                self._finish_run(owner, owner + 1)

    def close_but(self, failed: Collection[int]) -> None:
        """To be called once all outputs are expected: inputs without any finish now, except the `failed`, which are retried or
        become dead letters."""
        self._open = False
        total = self._stops[-1]
        if self._counts is None and not failed:
            at = 0
            for start, stop in self._expected:
                self._finish_run(at, start)
                at = stop
            self._finish_run(at, total)
            return
        for index in range(total):
            awaited = index in self._expected if self._counts is None else self._counts[index] > 0
            if not awaited and index not in failed:
                self._finish_run(index, index + 1)

    def _finish_run(self, start: int, stop: int) -> None:
        at = bisect_right(self._stops, start)
        while start < stop:
            share, end = self._each[at], self._stops[at]
            base = end - share.count
            share.part(start - base, min(stop, end) - base).finish()
            start = end
            at += 1


class CountRow(NamedTuple):
    """A count of a stage, for people.

    metric  its name in Prometheus, without `zpipe_` and `_total`, the unit first; None: it is no metric
    advice  what to do where it grows
    of_sum  it is a term of the stage's identity
    """

    name: str
    help: str
    metric: str | None
    advice: str
    of_sum: bool


def _count(help: str, metric: str | None, advice: str = "", of_sum: bool = False) -> Any:
    return field(default=0, metadata={"help": help, "metric": metric, "advice": advice, "of_sum": of_sum})


@dataclass(slots=True)
class Counts:
    """received = completed + filtered + dead + returned + in_process + queued, after every event.

    The counts of that sum change by what happens to messages, in the methods below, and nowhere else. Snapshots, the monitor,
    metrics and the checks of the documents follow from this table of counts.
    """

    received: int = _count("Messages taken in; a source: taken from its iterator", "messages_received", of_sum=True)
    completed: int = _count("Messages that the plugin finished", "messages_completed", of_sum=True)
    filtered: int = _count("Messages that the plugin dropped on purpose", "messages_filtered", of_sum=True)
    dead: int = _count("Messages given up since the start: dead letters", "messages_dead", of_sum=True)
    returned: int = _count(
        "Messages handed back unstarted, or dropped with a lost session, to be sent again",
        "messages_returned",
        of_sum=True,
    )
    # These two go down again, so they are gauges, which are listed with the others of their kind.
    in_process: int = _count("Messages that the plugin has, or that wait to be tried again", None, of_sum=True)
    queued: int = _count("Messages that wait here for the plugin", None, of_sum=True)
    duplicates: int = _count(
        "Messages that came again while they were held here, and were passed over", "messages_duplicate"
    )
    retries: int = _count(
        "Calls of the plugin again for messages that failed",
        "messages_retried",
        "the log, and the plugin's own service",
    )
    malformed: int = _count(
        "Frames that broke the protocol and were dropped",
        "frames_malformed",
        "somebody else connects, or versions differ: the log names what came",
    )
    replayed: int = _count("Dead letters that were tried again", None)
    unrouted: int = _count(
        "Outputs that left by an outlet which no stage reads, and went nowhere",
        "messages_unrouted",
        "give the outlet a stage that reads it, or mend the plugin; `zpipe check` names the outlet",
    )

    @property
    def done(self) -> int:
        """Messages that nothing more is done for here."""
        return self.completed + self.filtered + self.dead

    def receive(self, queued: int = 0, in_process: int = 0) -> None:
        """Messages came, to wait in the queue or to be worked on at once."""
        self.received += queued + in_process
        self.queued += queued
        self.in_process += in_process

    def start(self, messages: int) -> None:
        """Queued messages are given to a worker."""
        self.queued -= messages
        self.in_process += messages

    def hand_back(self, messages: int) -> None:
        """Queued messages go back to their producer unstarted."""
        self.queued -= messages
        self.returned += messages

    def give_up(self, messages: int) -> None:
        """Messages in process go back to their producer after all."""
        self.in_process -= messages
        self.returned += messages

    def finish(self, completed: int = 0, filtered: int = 0, dead: int = 0) -> None:
        """Messages in process are done with."""
        self.completed += completed
        self.filtered += filtered
        self.dead += dead
        self.in_process -= completed + filtered + dead

    def off(self) -> int:
        """0 when the identity holds."""
        return self.received - self.done - self.returned - self.in_process - self.queued


COUNT_ROWS = tuple(CountRow(count.name, **count.metadata) for count in fields(Counts))
COUNTS = tuple(row.name for row in COUNT_ROWS if row.of_sum)
"""The terms of the identity: `received` first, which is the sum of the others."""
OTHERS = tuple(row.name for row in COUNT_ROWS if not row.of_sum)
