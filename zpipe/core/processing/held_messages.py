"""Messages that the plugin holds: it has had them, and says later what they were made into.

May live here: which messages are held, what a release of some of them means for the counts and the ledger, and giving them back.
When the plugin is called for that is `hook_timer`'s.

A held message is in process and unacked, so it counts against the queue, and whoever sent it sends it again if this process dies.
No timeout applies to it. What was made from several of them is one derivation: they are finished when all of it is acked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from zpipe.core.actions import LogEvent
from zpipe.core.downstream.downstream import Downstream
from zpipe.core.ledger import Counts, EachDerivation
from zpipe.core.processing.dead_letters import DeadLetters
from zpipe.core.processing.replays import Replays, replay_of
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.work.delivery import Slice
from zpipe.core.work.task import CallHistory, DeadLetter, HeldKey, Releases, Result, Task

HELD_FULL = (
    "they fill the queue, so nothing more comes before some are released: give `queue` more messages, or hold fewer"
)


class Groups:
    """Held messages by the output that they were made into. A group is to the ledger what a message is elsewhere."""

    def __init__(self, groups: Sequence[Sequence[Slice]]) -> None:
        self._groups = groups

    @property
    def count(self) -> int:
        return len(self._groups)

    def part(self, start: int, stop: int) -> Groups:
        return Groups(self._groups[start:stop])

    def finish(self) -> None:
        for group in self._groups:
            for piece in group:
                piece.finish()


class HeldMessages:
    """`handed_back`: what was held has gone back to its producers. The plugin does not know that, so its hooks are not called
    any more."""

    def __init__(
        self, counts: Counts, inlet: Inlet, downstream: Downstream, dead_letters: DeadLetters, replays: Replays
    ) -> None:
        self._counts = counts
        self._inlet = inlet
        self._downstream = downstream
        self._dead_letters = dead_letters
        self._replays = replays
        self._pieces: dict[HeldKey, Slice] = {}
        self.handed_back = False

    def __len__(self) -> int:
        return len(self._pieces)

    def hold(self, task: Task, indexes: Collection[int]) -> None:
        """These messages of a task that came back are held from now on."""
        for index in indexes:
            self._pieces[task.number, index] = task.at(index)

    def release(self, releases: Releases) -> None:
        """Hands on what the plugin has made of held messages, and ties them to it. The messages of a group whose output cannot be
        sent become dead letters."""
        groups = [[self._pieces.pop(key) for key in group] for group in releases.groups]
        failed = {failure.index for failure in releases.failures}
        for index, group in enumerate(groups):
            if index not in failed:
                self._finish(group, filtered=index in releases.dropped)
        each = EachDerivation([Groups(groups)])
        self._counts.unrouted += self._downstream.offer(releases.chunks, each)
        each.close_but(failed)
        for failure in releases.failures:
            history = CallHistory().after(failure)
            for piece in groups[failure.index]:
                self._dead_letters.add(DeadLetter(failure.reason, failure.traceback, history, piece))

    def _finish(self, group: list[Slice], filtered: bool) -> None:
        """This stage's own work on them is done: their room is free, their acks wait for what was made from them."""
        if filtered:
            self._counts.finish(filtered=len(group))
        else:
            self._counts.finish(completed=len(group))
        for piece in group:
            if replay_of(piece) is not None:
                self._replays.processed(1)
            self._inlet.release(piece)

    def hand_back(self, now: float) -> None:
        """(Leaving) all go back: their producers send them to another instance, and replayed dead letters stay in the store."""
        pieces, self._pieces = list(self._pieces.values()), {}
        self.handed_back = True
        self._counts.give_up(len(pieces))
        for piece in pieces:
            if replay_of(piece) is not None:
                self._replays.processed(1)
            self._inlet.hand_back_piece(piece, now)


def held_full(held: int) -> LogEvent:
    """Held messages alone fill the queue."""
    return LogEvent("held.full", {"held": held, "hint": HELD_FULL})


def hook_left(hook: str, result: Result, held: int, leaving: bool) -> list[LogEvent]:
    """What a hook that has no messages has left undone, for the log."""
    if result.failures:
        failure = result.failures[0]
        fields, alike = {"reason": failure.reason, "held": held}, failure.reason.partition(":")[0]
        return [LogEvent(f"{hook}.failed", fields, alike=alike, traceback=failure.traceback)]
    if hook == "flush" and held and not leaving:
        hint = "the stream has ended, and the drain waits for what the plugin still holds after its flush"
        return [LogEvent("held.left", {"held": held, "hint": hint})]
    return []
