"""The drain of a running pipeline, as `zpipe drain` does it from outside. Does not belong here: showing it, and adding up its
ledger.

Each head confirms the order. How far the drain is shows in the state of every snapshot, so a lost frame or an instance that
joins late does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from zpipe.config import InstanceKey, PipelineConfig
from zpipe.core.lifecycle import State
from zpipe.core.telemetry.snapshot import at_rest
from zpipe.errors import ExitCode, NoPeerError, OperatorError
from zpipe.operate.watch import DRAIN_ANSWER_S, Watch
from zpipe.runtime.places import Places, since_boot_s

TURN_S = 0.1


class PipelineDrain:
    """One drain.

    last    the last snapshot of every instance that was heard of since the drain began
    leaves_buffers  disk buffers keep what they have for the next run
    killed  the last snapshots of incarnations that were followed by another one during the drain
    """

    def __init__(self, config: PipelineConfig, env: Mapping[str, str], leaves_buffers: bool = False) -> None:
        self._config = config
        self._leaves_buffers = leaves_buffers
        self._buffers_left: set[str] = set()
        self._places = Places(config, env, since=since_boot_s())
        self._watch = Watch(config, self._places)
        self.last: dict[InstanceKey, dict[str, Any]] = {}
        self.killed: list[dict[str, Any]] = []
        self._told: set[tuple[str, str]] = set()
        self._last_accounts: list[dict[str, Any]] = []

    def gather(self, timeout_s: float) -> None:
        """Waits for a snapshot of every instance of the config, at most so long. Blocks. One that runs on this machine and is not
        heard of by then, since the machine is busy, is waited for by `run`.

        Raises NoPeerError if no instance runs, or no head, and OperatorError if this user may not look for them.
        """
        expected = set(self._config.instances)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not expected <= set(self.last):
            self._listen(TURN_S)
        if not self.last and not self._silent():
            raise self._nobody()
        heads = self._config.heads
        if not self._has_begun() and not any(self._alive(key) for key in self._instances() if key[0] in heads):
            self._take_last_accounts(heads)

    def _nobody(self) -> OperatorError:
        return self._places.no_peer_error(f"no instance of pipeline {self._config.name!r} is running")

    def _take_last_accounts(self, heads: Collection[str]) -> None:
        """The heads are gone. If they have stopped at their end, what waits for them waits in vain, and their last accounts prove
        that nothing is owed. Those are on the disks of their own hosts only. Raises NoPeerError where one is not found."""
        instances = [key for key in self._config.instances if key[0] in heads]
        accounts = {key: self._places.last_account(*key) for key in instances}
        missing = [key for key, account in accounts.items() if account is None]
        if missing:
            names = ", ".join(sorted({stage for stage, _ in missing}))
            elsewhere = sorted({host for key in missing if (host := self._places.other_host(*key))})
            hint = f"; if it has ended, drain on {', '.join(elsewhere)}, where its last account is" if elsewhere else ""
            raise NoPeerError(
                f"a drain begins at the head, and {names} is not running: start it, or stop the others{hint}"
            )
        self._last_accounts = [account for account in accounts.values() if account is not None]
        self.last.update(zip(accounts, self._last_accounts, strict=True))

    def run(self, timeout_s: float, turn: Callable[[], None]) -> ExitCode:
        """Orders the drain and waits for its end; `turn` is called ten times a second. Blocks.

        Returns DONE when every instance has stopped, and DRAIN_TIMEOUT if some have not stopped in time. Raises like `gather` if
        all are gone before any was heard of.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if self._leaves_buffers:
                self._have_buffers_left()
            self._watch.order_drain({key: one for key, one in self.last.items() if key[0] in self._config.heads})
            self._listen(TURN_S)
            self._read_marks()
            self._end_latecomers()
            turn()
            if not self.running() and not self._silent():
                if not self.last:
                    raise self._nobody()
                return ExitCode.DONE
            if time.monotonic() > deadline:
                return ExitCode.DRAIN_TIMEOUT

    def _have_buffers_left(self) -> None:
        """Tells every incarnation that has disk buffers, before its stream ends."""
        for key, snapshot in self.last.items():
            if self._config.stages[key[0]].buffer is None or snapshot["incarnation"] in self._buffers_left:
                continue
            with suppress(NoPeerError):  # told in the next round, if it still runs
                self._watch.ask(*key, "leave-buffers", DRAIN_ANSWER_S)
                self._buffers_left.add(snapshot["incarnation"])

    def leave(self, stage: str, instance: int, timeout_s: float, turn: Callable[[], None]) -> ExitCode:
        """Has one instance leave: it hands back what it has not started, finishes the rest and exits. Otherwise like `run`."""
        self._watch.ask(stage, instance, "leave")
        deadline = time.monotonic() + timeout_s
        while self._final_snapshot((stage, instance)) is None:
            self._listen(TURN_S)
            if (stage, instance) in self.running():
                turn()
            if time.monotonic() > deadline:
                return ExitCode.DRAIN_TIMEOUT
        return ExitCode.DONE

    def _instances(self) -> list[InstanceKey]:
        return [(stage, n) for stage in self._config.stages for n in sorted(self._places.instances(stage))]

    def _alive(self, key: InstanceKey) -> bool:
        return key in self.last or (self._places.is_local(*key) and self._places.alive(*key))

    def _silent(self) -> list[InstanceKey]:
        """Instances that run and were not heard of: they are starting, or their process is stopped by a signal."""
        return [key for key in self._instances() if key not in self.last and self._alive(key)]

    def _has_begun(self) -> bool:
        """Whether an earlier drain, or the end of a source, has got further than the heads already."""
        early = (State.STARTING.value, State.RUNNING.value)
        heads = self._config.heads
        return any(key[0] in heads or snapshot["state"] not in early for key, snapshot in self.last.items())

    def missing(self) -> list[str]:
        """A sentence for each instance that was not heard of. They explain why a drain has not ended."""
        silent = self._silent()
        absent = [key for key in self._config.instances if key not in self.last and key not in silent]
        return [f"{stage}.{n} runs but does not answer (stopped?)" for stage, n in silent] + [
            f"{stage}.{n} is not running" for stage, n in absent
        ]

    def running(self) -> list[InstanceKey]:
        """Instances that were heard of and have not stopped yet."""
        return [key for key, snapshot in self.last.items() if snapshot["state"] != State.STOPPED.value]

    def _end_latecomers(self) -> None:
        """Ends instances that were started after their upstream had ended. Such an instance waits for a stream: it cannot know
        that an end which it finds on disk is that of this stream, and of another host it finds none. The drain has seen the end,
        and tells it. One whose consumers are all gone could not pass its end on, so it is told to leave."""
        for key in self.running():
            for order in self._orders_for_latecomer(*key):
                told = self.last[key]["incarnation"], order
                if told not in self._told:
                    with suppress(OperatorError):
                        self._watch.ask(*key, order, DRAIN_ANSWER_S)
                        self._told.add(told)

    def _orders_for_latecomer(self, stage: str, instance: int) -> list[str]:
        snapshot = self.last[stage, instance]
        inputs = {entry.stage for entry in self._config.stages[stage].inputs}
        in_session = {f"{row.get('from')}.{row['instance']}" for row in snapshot.get("sessions", ())}
        waiting_for = [name for name in snapshot.get("waiting_for") or () if name not in in_session]
        unheard = {name: name.partition(".")[0] for name in waiting_for if name.partition(".")[0] in inputs}
        if not unheard or not all(map(self._has_ended, unheard.values())):
            return []
        consumers = {consumer for _, consumer in self._config.consumers(stage)}
        if consumers and not any(key[0] in consumers for key in self.running()):
            return ["leave"]
        instances = [
            [f"{above}.{n}" for n in range(1, self._config.stages[above].instances + 1)] if name == above else [name]
            for name, above in unheard.items()
        ]
        return [f"ended:{name}" for names in instances for name in names]

    def _has_ended(self, stage: str) -> bool:
        """Whether all instances of the stage that this drain heard of have stopped, and at least one at the end of its stream. An
        instance on another host has done so if its last snapshot is STOPPED and holds nothing."""
        known = [key for key in self._instances() if key[0] == stage and self._alive(key)]
        stopped = all(self._final_snapshot(key) is not None for key in known)
        return stopped and any(self._stopped_at_end(key) for key in known)

    def _stopped_at_end(self, key: InstanceKey) -> bool:
        last = self.last.get(key)
        if not self._places.is_local(*key):
            return last is not None and last["state"] == State.STOPPED and at_rest(last)
        return last in self._last_accounts or self._places.stopped_at_end(*key) is not None

    def _listen(self, timeout_s: float) -> None:
        for snapshot in self._watch.poll(timeout_s):
            key = snapshot["stage"], snapshot["instance"]
            before = self.last.get(key)
            if before is not None and before["incarnation"] != snapshot["incarnation"]:
                self.killed.append(before)
            self.last[key] = snapshot

    def _read_marks(self) -> None:
        """Reads final snapshots from disk, too: the one that an instance published last may be lost with its socket."""
        for key in self.running():
            final = self._final_snapshot(key)
            if final is not None:
                self.last[key] = final

    def _final_snapshot(self, key: InstanceKey) -> dict[str, Any] | None:
        """The snapshot of an instance that has stopped; None as long as it has not."""
        last = self.last.get(key)
        if last is not None and last["state"] == State.STOPPED.value:
            return last
        return self._places.stopped(*key)

    def close(self) -> None:
        self._watch.close()
