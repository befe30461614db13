"""The replay of dead letters by a running pipeline: tells the instances that have the letters, and waits for the outcome. Does
not belong here: marking the letters (`stored_dead_letters`), and starting a pipeline that does not run (the supervisor)."""

from __future__ import annotations

import time
from collections.abc import Callable

from zpipe.config import InstanceKey
from zpipe.core.lifecycle import State
from zpipe.errors import NoPeerError, OperatorError
from zpipe.operate.stored_dead_letters import Numbers, Outcome, StoredDeadLetters
from zpipe.operate.watch import Watch
from zpipe.runtime.places import Places

TURN_S = 0.2
LOOK_S = 0.5
GONE_S = 15.0
"""How long to wait for an instance that does not run. Whatever restarts instances does it sooner."""


class DeadLetterReplay:
    """The replay of chosen letters by instances that run."""

    def __init__(self, stored_dead_letters: StoredDeadLetters, chosen: Numbers) -> None:
        self._stored_dead_letters = stored_dead_letters
        self._chosen = chosen
        self._places = Places(stored_dead_letters.config, stored_dead_letters.env)
        self._watch = Watch(stored_dead_letters.config, self._places)
        self._asked: dict[InstanceKey, str] = {}
        self._gone_since: dict[InstanceKey, float] = {}

    def wait(self, turn: Callable[[Outcome, list[str]], None]) -> Outcome:
        """Waits until each letter is replayed or a dead letter again, or its instance cannot replay it now. Blocks.

        `turn` is called twice a second with the outcome so far and with what is in the way.
        """
        look_at = 0.0
        while True:
            self._watch.poll(TURN_S)
            now = time.monotonic()
            if now < look_at:
                continue
            look_at = now + LOOK_S
            left, _ = self._stored_dead_letters.marked(self._chosen)
            waits = [self._state(instance, now) for instance in left]
            found = self._stored_dead_letters.outcome(self._chosen)
            turn(found, [why for _, why in waits if why])
            if all(given_up for given_up, _ in waits):
                return found

    def ask(self) -> Outcome:
        """Tells the instances that run, and does not wait for the outcome. Blocks up to a second for each."""
        for instance in self._chosen:
            if self._places.alive(*instance):
                self._ask(instance, "")
        return self._stored_dead_letters.outcome(self._chosen)

    def _state(self, instance: InstanceKey, now: float) -> tuple[bool, str]:
        """For an instance that has letters left: whether to give up waiting for it, and what is in the way ("" if nothing is)."""
        name = f"{instance[0]}.{instance[1]}"
        if not self._places.alive(*instance):
            since = self._gone_since.setdefault(instance, now)
            return now - since > GONE_S, f"{name} does not run: it replays them when it starts"
        self._gone_since.pop(instance, None)
        snapshot = self._watch.snapshots.get(instance)
        if snapshot is None:
            return False, ""
        self._ask(instance, snapshot["incarnation"])
        if snapshot["state"] not in (State.STARTING, State.RUNNING) and not snapshot.get("replaying"):
            return True, f"{name} is {snapshot['state']}: it replays them at its next start"
        return False, f"{name} is paused: zpipe resume" if snapshot.get("paused") else ""

    def _ask(self, instance: InstanceKey, incarnation: str) -> None:
        """Tells each incarnation once that there are letters. One that has just started looks for them by itself, but may have
        looked before they were marked."""
        if self._asked.get(instance) == incarnation:
            return
        try:
            self._watch.ask(*instance, "replay", timeout_s=1.0)
        except NoPeerError:
            return  # it is busy or gone; the next turn asks again
        except OperatorError:
            pass  # it refuses; its state says what is in the way
        self._asked[instance] = incarnation

    def close(self) -> None:
        self._watch.close()
