"""Dead letters that are tried again: messages that came from this stage's own store, not from a producer.

May live here: which letters are in hand and which are done with. It knows no store, no outlet and no rate; who reads the
letters decides how fast they come.

They do not pass the queue: its credit is given to producers, who answer for what they sent, and for these nobody above
does. So they have a bound of their own, and their row in the store stays until everything derived from them is acked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Slice

MOST = 64
"""Letters in hand at once: enough to keep workers busy at any rate worth replaying at, and a kill repeats no more."""
MOST_BYTES = 1 << 20
"""Of letters in hand together, passed by one message at most. Little beside the queue, so that the config still says how much
memory a stage may take."""


class Revived(NamedTuple):
    """A letter that is to be a message again. `body` is its message, as a section of one; `suspicion` that of a Section; `source`
    the input that the message came by, as in a Delivery."""

    number: int
    body: bytes
    suspicion: int = 0
    source: str = ""


class Replay(Delivery):
    """The delivery of one letter: finished like any other, but owed to the store."""

    __slots__ = ("dead_again", "number")

    def __init__(self, letter: Revived, replays: Replays) -> None:
        self.number = letter.number
        self.dead_again = False
        section = Section(letter.body, 1, letter.number, suspicion=letter.suspicion)
        super().__init__([section], replays.finished, source=letter.source)


class Replays:
    """Letters in hand: taken from the store and not yet gone from it, or dead once more.

    in_process  those whose work here is not done; the others wait for acks, or for their row to go
    waiting     those that no worker has had yet
    """

    def __init__(self) -> None:
        self.in_process = 0
        self._held: dict[int, Replay] = {}
        self.waiting: deque[Slice] = deque()
        self._done: list[int] = []

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[int]:
        """The numbers of the letters in hand."""
        return iter(self._held)

    @property
    def full(self) -> bool:
        return bool(self._held) and min(self.room) <= 0

    @property
    def room(self) -> tuple[int, int]:
        """How many more may be taken now, and bytes of them."""
        held_bytes = sum(section.size for replay in self._held.values() for section in replay.sections)
        return MOST - len(self._held), MOST_BYTES - held_bytes

    def add(self, letters: list[Revived], now: float) -> None:
        """Takes letters in hand, to be given to workers."""
        self.in_process += len(letters)
        for letter in letters:
            assert letter.number not in self._held, "in hand already"
            replay = self._held[letter.number] = Replay(letter, self)
            self.waiting.append(Slice(replay, replay.sections[0], 0, 0, 1, now))

    def processed(self, letters: int) -> None:
        """The work on so many is done here."""
        self.in_process -= letters

    @property
    def next(self) -> Slice | None:
        """What `take` would begin with; None while none waits."""
        return self.waiting[0] if self.waiting else None

    def take(self, most: int) -> list[Slice]:
        """Up to so many of those that no worker has had yet. A suspect comes alone."""
        taken: list[Slice] = []
        while self.waiting and len(taken) < most:
            if taken and (self.waiting[0].section.suspicion or taken[0].section.suspicion):
                break
            taken.append(self.waiting.popleft())
        return taken

    def finished(self, delivery: Delivery) -> None:
        """Everything derived from the letter's message is finished, or it is a letter again."""
        assert isinstance(delivery, Replay)
        if delivery.dead_again:
            del self._held[delivery.number]
        else:
            self._done.append(delivery.number)

    def take_done(self) -> list[int]:
        """Numbers of the letters whose rows may go now."""
        done, self._done = self._done, []
        return done

    def removed(self, number: int) -> None:
        """The row is gone, durably."""
        self._held.pop(number, None)


def replay_of(piece: Slice | None) -> Replay | None:
    """The replay that a slice is of; None for what came from a producer."""
    delivery = piece.delivery if piece is not None else None
    return delivery if isinstance(delivery, Replay) else None
