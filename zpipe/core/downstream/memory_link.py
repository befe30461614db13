"""What links share that keep their outputs in memory until the far side answers for them: the sections, and their counts.

May live here: which sections are unsent, in which order, and how much is in flight. Must not live here: where they go, and when.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from zpipe.core.ledger import Derivation
from zpipe.core.wire.section import Section
from zpipe.core.work.task import Chunk

NEVER = float("inf")


class Ages:
    """How old messages are, by their numbers, to within the time between two calls of `mark`. To keep a time for each message
    would be most of the cost of holding it."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, now: float, next_number: int) -> None:
        """Numbers below `next_number` exist by now."""
        if not self._marks or self._marks[-1][1] < next_number:
            self._marks.append((now, next_number))

    def age(self, now: float, number: int) -> float:
        """Seconds since `number` was first seen to exist; 0.0 if it has not been. What is older is forgotten."""
        while self._marks and self._marks[0][1] <= number:
            self._marks.popleft()
        return max(0.0, now - self._marks[0][0]) if self._marks else 0.0


class MemoryLink:
    """One link, from the outlet `name` of this stage ("" is the default one) to the stage `consumer`. It is most of an
    `OutgoingLink`; whoever derives from it sends what is unsent.

    `produced = acked + in_flight + unsent` holds after every call (messages).
    """

    room = 1 << 62
    waiting = awaits_acks = False
    drained = True

    def __init__(self, name: str, consumer: str, next_number: int) -> None:
        self.name = name
        self.consumer = consumer
        self.unsent_messages = 0
        self.unsent_bytes = 0
        self.in_flight_messages = 0
        self.in_flight_bytes = 0
        self.produced = 0
        self.acked = 0
        self.redelivered = 0
        self.returned = 0
        self.end_acked = False
        self.send_at = NEVER
        self._unsent: deque[Section] = deque()
        self._next_number = next_number
        self._ages = Ages()

    @property
    def held_messages(self) -> int:
        return self.unsent_messages + self.in_flight_messages

    @property
    def held_bytes(self) -> int:
        return self.unsent_bytes + self.in_flight_bytes

    def offer(self, chunk: Chunk, derivation: Derivation) -> None:
        """Answers for a section from now until the far side does."""
        count = chunk.messages
        derivation.expect(count, chunk.owners)
        section = Section(chunk.body, count, self._next_number, 1, derivation, chunk.owners)
        self._next_number += count
        self.produced += count
        self._unsent.append(section)
        self.unsent_messages += count
        self.unsent_bytes += section.size

    def _take_first(self) -> Section:
        """Takes the first section out of the unsent ones."""
        section = self._unsent.popleft()
        self.unsent_messages -= section.count
        self.unsent_bytes -= section.size
        return section

    def _put_back(self, section: Section) -> None:
        """Makes the section unsent again, ahead of the rest."""
        self._unsent.appendleft(section)
        self.unsent_messages += section.count
        self.unsent_bytes += section.size

    def _remove_in_flight(self, section: Section) -> None:
        self.in_flight_messages -= section.count
        self.in_flight_bytes -= section.size

    def note_end_acked(self) -> None:
        """The consumer stage has known of the end, though not from this incarnation."""
        self.end_acked = True

    def leave_stored(self) -> None:
        """Does nothing: such a link stores nothing."""

    def figures(self, now: float) -> dict[str, Any]:
        """Its row of a snapshot. The oldest unsent message has waited for `oldest_s`, to within the time between two calls."""
        self._ages.mark(now, self._next_number)
        return {
            "outlet": self.name,
            "to": self.consumer,
            "produced": self.produced,
            "acked": self.acked,
            "in_flight": self.in_flight_messages,
            "in_flight_bytes": self.in_flight_bytes,
            "unsent": self.unsent_messages,
            "unsent_bytes": self.unsent_bytes,
            "oldest_s": self._ages.age(now, self._unsent[0].first if self._unsent else self._next_number),
            "redelivered": self.redelivered,
            "returned": self.returned,
        }

    def off(self) -> int:
        """0 when the link's identity holds."""
        return self.produced - self.acked - self.in_flight_messages - self.unsent_messages
