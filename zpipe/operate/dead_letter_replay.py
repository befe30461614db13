"""`zpipe dead replay` on a pipeline that runs: asking the instances that have the letters, and waiting for what comes of it.

May live here: who is asked, and when waiting is over. `stored_dead_letters` marks the letters, and the
supervisor starts a pipeline that does not run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from zpipe.config import PipelineConfig
from zpipe.core.lifecycle import State
from zpipe.errors import NoPeerError, OperatorError
from zpipe.operate.stored_dead_letters import Instance, Numbers, StoredDeadLetters
from zpipe.operate.watch import Watch

TURN_S = 0.2
LOOK_S = 0.5
GONE_S = 15.0
"""An instance that does not run for so long is not waited for: who restarts those that die does it sooner."""


@dataclass(frozen=True)
class Outcome:
    """What became of letters: `replayed` are gone, `again` died once more, `left` are still to be replayed."""

    replayed: int
    again: int
    left: int


def count(numbers: Numbers) -> int:
    return sum(map(len, numbers.values()))


def outcome(stored_dead_letters: StoredDeadLetters, chosen: Numbers) -> Outcome:
    """What has become of the chosen letters by now."""
    left, again = stored_dead_letters.marked(chosen)
    return Outcome(count(chosen) - count(left) - count(again), count(again), count(left))


def running(stored_dead_letters: StoredDeadLetters) -> bool:
    """Whether any instance of the pipeline runs on this machine."""
    places = stored_dead_letters.places
    return any(places.alive(s, n) for s in stored_dead_letters.config.stages for n in places.instances(s))


class Replaying:
    """Letters that are replayed by instances that run."""

    def __init__(
        self, config: PipelineConfig, env: Mapping[str, str], stored_dead_letters: StoredDeadLetters, chosen: Numbers
    ) -> None:
        self._graveyard = stored_dead_letters
        self._chosen = chosen
        self._watch = Watch(config, env)
        self._asked: dict[Instance, str] = {}
        self._gone_since: dict[Instance, float] = {}

    def wait(self, turn: Callable[[Outcome, list[str]], None]) -> Outcome:
        """Until every letter is replayed, dead again, or its instance does not do it; `turn` hears of it now and then, with
        what is in the way. Blocks."""
        look_at = 0.0
        while True:
            self._watch.poll(TURN_S)
            now = time.monotonic()
            if now < look_at:
                continue
            look_at = now + LOOK_S
            left, _ = self._graveyard.marked(self._chosen)
            waits = [self._state(instance, now) for instance in left]
            found = outcome(self._graveyard, self._chosen)
            turn(found, [why for _, why in waits if why])
            if all(given_up for given_up, _ in waits):
                return found

    def ask(self) -> Outcome:
        """Tells the instances that run, and does not wait for more. Blocks up to a second for each."""
        for instance in self._chosen:
            if self._watch.places.alive(*instance):
                self._ask(instance, "")
        return outcome(self._graveyard, self._chosen)

    def _state(self, instance: Instance, now: float) -> tuple[bool, str]:
        """(nothing more is to be expected of it, what is in the way) of an instance that has letters left."""
        name = f"{instance[0]}.{instance[1]}"
        if not self._watch.places.alive(*instance):
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

    def _ask(self, instance: Instance, incarnation: str) -> None:
        """Tells it once that there are letters; what started since looks by itself, but may have looked too early."""
        if self._asked.get(instance) == incarnation:
            return
        try:
            self._watch.ask(*instance, "replay", timeout_s=1.0)
        except NoPeerError:
            return  # busy, or gone: the next look asks again
        except OperatorError:
            pass  # it refuses: what is in the way is in its state
        self._asked[instance] = incarnation

    def close(self) -> None:
        self._watch.close()
