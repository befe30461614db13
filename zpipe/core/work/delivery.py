"""A parcel as its consumer holds it, and the slices of it that wait, are worked on and finish.

May live here: which messages of a parcel are finished, and who answers for them. It knows no session, no credit and no frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from zpipe.core.ranges import RangeSet
from zpipe.core.wire.section import Columns, Section
from zpipe.errors import PeerError


class Producer(NamedTuple):
    """One incarnation of an upstream instance, as it feeds one link.

    numbers  names the sequence of its messages' numbers, where it goes on in later incarnations (a disk buffer's); "": it
             ends with this incarnation
    """

    stage: str
    outlet: str
    instance: int
    incarnation: str
    numbers: str = ""

    @property
    def sequence(self) -> str:
        """What names the sequence of its messages' numbers."""
        return self.numbers or self.incarnation

    @property
    def input(self) -> str:
        """The link, as an `input` in a config names it."""
        return f"{self.stage}.{self.outlet}" if self.outlet else self.stage


class Delivery:
    """Messages that arrived together. Calls `on_finished(self)` once every one of them is finished.

    producer  who sent them and sends them again if this instance dies. None: they came from this stage's own store
    source    the input that they came by, as a config names it; "" if they came by none
    done      offsets of finished messages; None while none is, and no longer filled once all are
    """

    __slots__ = ("_adopters", "_on_finished", "count", "done", "producer", "sections", "source", "unfinished")

    def __init__(
        self,
        sections: list[Section],
        on_finished: Callable[[Delivery], None],
        producer: Producer | None = None,
        source: str = "",
    ) -> None:
        self.producer = producer
        self.source = source
        self.sections = sections
        self.count = 0
        for section in sections:
            self.count += section.count
        self.unfinished = self.count
        self.done: RangeSet | None = None
        self._on_finished = on_finished
        self._adopters: dict[int, list[tuple[Delivery, int]]] = {}

    def finish(self, start: int, stop: int) -> None:
        """Messages [start, stop) of the parcel are finished, with all that was derived from them."""
        self.unfinished -= stop - start
        if self.unfinished:  # after the last nobody asks which are done
            if self.done is None:
                self.done = RangeSet()
            self.done.add(start, stop)
        assert self.unfinished >= 0, "finished twice"
        if self._adopters:
            for offset in range(start, stop):
                for delivery, at in self._adopters.pop(offset, ()):
                    delivery.finish(at, at + 1)
        if not self.unfinished:
            self._on_finished(self)

    def adopt(self, offset: int, delivery: Delivery, at: int) -> None:
        """Message `offset` came again as message `at` of `delivery`: both finish together."""
        self._adopters.setdefault(offset, []).append((delivery, at))

    def disown(self, start: int, stop: int) -> list[tuple[Delivery, int]]:
        """Undoes `adopt` for messages [start, stop). Returns the copies: (delivery, offset) of each."""
        return [waiting for offset in range(start, stop) for waiting in self._adopters.pop(offset, ())]

    def find(self, number: int) -> int | None:
        """The offset of the unfinished message with this number, or None."""
        offset = 0
        for section in self.sections:
            if section.first <= number < section.first + section.count:
                at = offset + number - section.first
                return None if self.done is not None and at in self.done else at
            offset += section.count
        return None


class Slice:
    """Messages [start, stop) of one section of a delivery: the piece that is queued, worked on and finished together."""

    __slots__ = ("arrived_at", "count", "delivery", "offset", "section", "size", "start", "stop")

    def __init__(self, delivery: Delivery, section: Section, offset: int, start: int, stop: int, now: float) -> None:
        self.delivery = delivery
        self.section = section
        self.offset = offset
        self.start = start
        self.stop = stop
        self.arrived_at = now
        self.count = count = stop - start
        self.size = section.size if count == section.count else section.bytes_between(start, stop)

    def ids(self) -> list[str]:
        """The ids of its messages; none if the section cannot be decoded."""
        try:
            return self.columns().ids
        except PeerError:
            return []

    def columns(self) -> Columns:
        """Its messages. Raises PeerError where the section cannot be decoded."""
        columns = self.section.columns()
        return columns if self.count == self.section.count else columns.part(self.start, self.stop)

    def forget_columns(self) -> None:
        """To be called when its messages have been worked on. A slice that is not the section's last leaves the decoded columns
        to the next task."""
        if self.stop == self.section.count:
            self.section.forget_columns()

    def part(self, start: int, stop: int) -> Slice:
        """Messages [start, stop) of this slice, counted from its own first."""
        base = self.start
        return Slice(self.delivery, self.section, self.offset, base + start, base + stop, self.arrived_at)

    @property
    def span(self) -> tuple[int, int]:
        """Where its messages are in the delivery: [start, stop)."""
        return self.offset + self.start, self.offset + self.stop

    @property
    def numbers(self) -> tuple[int, int]:
        """The numbers of its messages, as their producer counts them: [first, stop)."""
        first = self.section.first
        return first + self.start, first + self.stop

    def finish(self) -> None:
        self.delivery.finish(self.offset + self.start, self.offset + self.stop)
