"""The ledger of chained acknowledgement: which inputs wait for which outputs.

May live here: derivations and the counters of the stage's identity. It knows no session: an input is anything that can be
told it is finished.

An input is acked only when everything derived from it is finished. One derivation stands for all messages that one task
completed, not for one message: at 300 k messages/s a Python object a message would be the bottleneck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Responsibility(Protocol):
    """A share of an input that is owed an ack."""

    def finish(self) -> None:
        """Everything derived from it is finished."""


class Derivation:
    """Inputs whose outputs are under way. Finishes its inputs once it is closed and every output is settled."""

    __slots__ = ("_inputs", "_open", "_pending")

    def __init__(self, inputs: list[Responsibility]) -> None:
        self._inputs = inputs
        self._pending = 0
        self._open = True

    def add_input(self, share: Responsibility) -> None:
        self._inputs.append(share)

    def expect(self) -> None:
        """One more output section is under way on a link."""
        self._pending += 1

    def settle(self) -> None:
        """One of them is acked, or a dead letter on disk."""
        assert self._pending > 0, "settled more than was expected"
        self._pending -= 1
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


@dataclass(slots=True)
class Counts:
    """received = completed + filtered + dead + returned + in_process + queued, after every event."""

    received: int = 0
    completed: int = 0
    filtered: int = 0
    dead: int = 0
    returned: int = 0
    in_process: int = 0
    queued: int = 0
    duplicates: int = 0
    retries: int = 0
    malformed: int = 0

    def off(self) -> int:
        """0 when the identity holds."""
        done = self.completed + self.filtered + self.dead + self.returned
        return self.received - done - self.in_process - self.queued
