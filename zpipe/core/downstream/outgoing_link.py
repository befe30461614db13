"""The face of a link at its sending side: what a stage asks of whatever takes its outputs to one consumer stage.

May live here: the contract alone. `Outlet` (ZeroMQ) is one implementation of it; another needs no change of the core: the shell
makes it and hands it to the stage, which knows it by this face.

offer     the stage answers for outputs, and hands them to the link
sendable  the link hands on what may go now
settled   the far side answers for them: the link calls `settle` of each section, and the stage's inputs may be acked

All calls come from the thread that has the loop, and none blocks. What touches the world is the link's shell: `sendable` and
`ends` may give `ToLink` actions with whatever the shell understands. It answers on the loop's thread by a `LinkHeard` event,
which calls its link's `heard`: what was settled, lost or found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from zpipe.core.actions import Action
from zpipe.core.downstream.outlet import Outlet
from zpipe.core.ledger import Derivation
from zpipe.core.work.task import Chunk


class OutgoingLink(Protocol):
    """One link, from the outlet `name` of this stage ("" is the default one) to the stage `consumer`.

    unsent     offered and not handed on;  in_flight: handed on, and the far side does not answer for them yet
    room       how many more it takes, besides what the stage's own bounds say; awaits_acks: it takes nothing more before a
               consumer acks something, and has nothing more to send
    acked      nothing is owed for them any more
    waiting    `sendable` may have something to give although nothing is unsent: what is stored, or something to ask of the shell
    send_at    when `sendable` may give more although nothing has happened; infinity: never
    end_acked  the far side has taken the end of the stream
    """

    name: str
    consumer: str

    @property
    def end_acked(self) -> bool: ...

    @property
    def acked(self) -> int: ...

    @property
    def unsent_messages(self) -> int: ...

    @property
    def unsent_bytes(self) -> int: ...

    @property
    def in_flight_messages(self) -> int: ...

    @property
    def room(self) -> int: ...

    @property
    def waiting(self) -> bool: ...

    @property
    def awaits_acks(self) -> bool: ...

    @property
    def send_at(self) -> float: ...

    @property
    def outlets(self) -> Sequence[Outlet]:
        """What of the link runs in ZeroMQ sessions: an outlet itself, one that is fed by a store, or nothing."""

    @property
    def held_messages(self) -> int:
        """What the stage answers for on this link, which the bound on unacked outputs counts: offered and not settled."""

    @property
    def held_bytes(self) -> int:
        """Likewise in bytes."""

    def offer(self, chunk: Chunk, derivation: Derivation) -> None:
        """Takes outputs over, which it may not refuse: the stage makes none while `held_messages` or the unsent ones are at
        their bound. Must call `derivation.expect` at once, and `settle` as often later, through a `Section` or by itself."""

    def sendable(self, now: float) -> Iterable[Action]:
        """The actions that hand on what may go now. Called in every turn while something is unsent or `waiting`; what is yielded
        is in flight."""

    def ends(self, now: float) -> Iterable[Action]:
        """Says the end of the stream to whom it was not said since the last output. Nothing is unsent; called in every turn
        from then on that looks at everything. More may be offered after it: a redelivery came."""

    def note_end_acked(self) -> None:
        """The consumer stage has heard the end of this run's stream, though not from this incarnation."""

    def leave_stored(self) -> None:
        """The stream has ended, and the operator wants what is stored to be kept for the next run: no more of it is sent."""

    def stopped(self, ended: bool) -> Iterable[Action]:
        """This instance has stopped, and soon exits; `ended`: at the end of its stream. Said once."""

    @property
    def all_ended(self) -> bool:
        """Everybody who is known to take from the link has taken the end, and owes nothing."""

    @property
    def stop_seen(self) -> bool:
        """Everybody who takes from the link knows that this instance has stopped, so that it may exit at once."""

    @property
    def lacks_consumers(self) -> bool:
        """Something is to be delivered, and nobody is there for it: a leaving instance does not wait for that."""

    @property
    def drained(self) -> bool:
        """Nothing is left in the link that a drain has to wait for, though the stage answers for it no more: a buffer is empty,
        or is to be left as it is."""

    def figures(self, now: float) -> dict[str, Any]:
        """Its row of a snapshot (PROTOCOL.md 5.9), with `consumers`, or a map under the name of its kind. In that row `produced =
        acked + in_flight + unsent` holds, less what a disk lost. `unsent` is all that was not handed on, also what is stored."""

    def off(self) -> int:
        """0 when the identity of `figures` holds."""
