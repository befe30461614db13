"""Messages given up: on their way to the store, or to the stage that reads dead letters.

May live here: which letters are to be written, and when the message of each is finished. Why a message is given up is decided
elsewhere, and the shell knows where letters are kept.
"""

from __future__ import annotations

from zpipe.core.downstream.downstream import Downstream
from zpipe.core.ledger import Counts, Derivation
from zpipe.core.processing.circuit_breaker import CircuitBreaker
from zpipe.core.processing.replays import Replays, replay_of
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.work.task import DEAD, Chunk, DeadLetter

NEVER = float("inf")
STORE_AGAIN_S = 1.0
"""A dead letter that could not be written (disk full) is written again after this long; its message stays unacked."""


class DeadLetters:
    """A letter's message is in process and unacked until the shell reports the letter `written` or `posted`."""

    def __init__(
        self, counts: Counts, inlet: Inlet, downstream: Downstream, breaker: CircuitBreaker, replays: Replays
    ) -> None:
        self._counts = counts
        self._inlet = inlet
        self._downstream = downstream
        self._breaker = breaker
        self._replays = replays
        self._new: list[DeadLetter] = []
        self._again: list[tuple[float, DeadLetter]] = []

    def __bool__(self) -> bool:
        """Some are to be written."""
        return bool(self._new or self._again)

    def add(self, letter: DeadLetter) -> None:
        """The letter is to be written, or sent."""
        self._new.append(letter)
        if replay_of(letter.piece) is None:
            self._breaker.dead_letter_made()

    def take(self, now: float) -> list[DeadLetter]:
        """The letters to write now."""
        if not (self._new or self._again):
            return []
        due = [letter for at, letter in self._again if at <= now]
        self._again = [entry for entry in self._again if entry[0] > now]
        letters, self._new = self._new + due, []
        return letters

    def next_at(self) -> float:
        """When `take` should be called although nothing happens."""
        return min(at for at, _ in self._again) if self._again else NEVER

    def written(self, letter: DeadLetter, stored: bool, now: float) -> None:
        """The letter is durable (then its message is finished), or could not be written."""
        if not stored:
            self._again.append((now + STORE_AGAIN_S, letter))
            return
        if (replay := replay_of(letter.piece)) is not None:
            replay.dead_again = True
        self._died(letter)
        if letter.piece is not None:
            letter.piece.finish()
        if letter.derivation is not None:
            letter.derivation.settle(1, letter.owners)

    def posted(self, letter: DeadLetter, body: bytes) -> None:
        """The letter leaves as a message by its outlet. What it was made from is finished when that is acked."""
        self._died(letter)
        chunks = [Chunk(DEAD, 1, body, letter.owners)]
        if letter.piece is not None:
            derivation = Derivation([letter.piece])
            self._downstream.offer(chunks, derivation)
            derivation.close()
        if letter.derivation is not None:
            self._downstream.offer(chunks, letter.derivation)
            letter.derivation.settle(1, letter.owners)

    def _died(self, letter: DeadLetter) -> None:
        self._counts.finish(dead=1)
        if replay_of(letter.piece) is None:
            self._breaker.dead_letter_written()
        else:
            self._replays.processed(1)
        if letter.piece is not None:
            self._inlet.release_dead(letter.piece)
