"""The life of an instance as a table of states and legal moves, and the one place that makes a move. Must not live here: when a
move is due.

Paused, leaving and blocked are not states: they do not change which moves are legal.
"""

from __future__ import annotations

from enum import Enum, StrEnum


class State(StrEnum):
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    DRAINING = "DRAINING"
    FLUSHED = "FLUSHED"
    STOPPED = "STOPPED"
    FAILED = "FAILED"


class Move(Enum):
    OPENED = "opened"
    DRAIN = "drain"
    FLUSH = "flush"
    REFILL = "refill"
    STOP = "stop"
    ABANDON = "abandon"
    FAIL = "fail"


TABLE: dict[tuple[State, Move], State] = {
    (State.STARTING, Move.OPENED): State.RUNNING,
    (State.STARTING, Move.DRAIN): State.DRAINING,
    (State.RUNNING, Move.DRAIN): State.DRAINING,
    (State.DRAINING, Move.FLUSH): State.FLUSHED,
    # A redelivery after FLUSHED: something is held again (FLUSHED says nothing is unsent, not that nothing can come).
    (State.FLUSHED, Move.REFILL): State.DRAINING,
    (State.FLUSHED, Move.STOP): State.STOPPED,
    # Leaving before anything was taken in: the plugin may still wait for its service.
    (State.STARTING, Move.ABANDON): State.STOPPED,
    # Leaving while nobody takes the outputs: their inputs are unacked, so upstream still answers for them.
    (State.DRAINING, Move.ABANDON): State.STOPPED,
    (State.FLUSHED, Move.ABANDON): State.STOPPED,
    (State.STARTING, Move.FAIL): State.FAILED,
    (State.RUNNING, Move.FAIL): State.FAILED,
    (State.DRAINING, Move.FAIL): State.FAILED,
    (State.FLUSHED, Move.FAIL): State.FAILED,
}


class Lifecycle:
    """Where an instance stands; `make` is the only way on. `abandoned`: it stopped without waiting for what it still held."""

    __slots__ = ("abandoned", "state")

    def __init__(self) -> None:
        self.state = State.STARTING
        self.abandoned = False

    def make(self, move: Move) -> bool:
        """Makes the move if the table has it. A refused move changes nothing and answers False."""
        after = TABLE.get((self.state, move))
        if after is None:
            return False
        self.state = after
        self.abandoned = move is Move.ABANDON
        return True

    @property
    def accepts_input(self) -> bool:
        return self.state in (State.RUNNING, State.DRAINING, State.FLUSHED)

    @property
    def over(self) -> bool:
        return self.state in (State.STOPPED, State.FAILED)
