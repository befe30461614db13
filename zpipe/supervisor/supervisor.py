"""The run of `zpipe run`: every instance is a child daemon, until the sources have ended and everything is acked. Does not belong
here: showing the run, and adding up its ledger. Those are handed in."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Collection, Mapping
from typing import Any

from zpipe import folders
from zpipe.config import InstanceKey, PipelineConfig, config_record, load
from zpipe.core.lifecycle import State
from zpipe.errors import ConfigError, ExitCode, OperatorError
from zpipe.monitor.model.run_ledger import RunLedger
from zpipe.monitor.run.progress import LiveProgress, PlainProgress
from zpipe.operate.watch import Watch
from zpipe.runtime import environment, file_descriptors, locks
from zpipe.runtime.locks import RunLock
from zpipe.runtime.logs import fields
from zpipe.runtime.places import Places
from zpipe.runtime.signals import Signals
from zpipe.supervisor import run_conflicts
from zpipe.supervisor.children import ChildDaemon, ChildDeath, is_temporary
from zpipe.supervisor.file_watch import FileWatch
from zpipe.supervisor.instance_processes import InstanceProcesses

TURN_S = 0.1
STOP_S = 5.0
ADOPT_S = 1.0
NOT_UP = (State.STARTING.value, State.FAILED.value)
"""States in which an instance has not shown yet that it can start."""
JOINED_S = 5.0
"""How long the end of a run waits for instances that were started beside it and joined it."""


class Supervisor:
    """One run. Raises OperatorError if it cannot begin. Nothing was started and no instance was asked for anything then.

    It has to do only with instances that belong to it, as their snapshots say: those that it started, and those that joined it.

    replay           instances that have dead letters to be replayed. Sources are not read then, and the run drains once every
                     letter was taken in hand
    drain_timeout_s  how long a drain may take before the run stops
    file_watch       stages whose files have changed are started again; None: they are not looked at
    warm             instances are forked from a process that has imported zpipe; False: each is executed
    """

    def __init__(
        self,
        config: PipelineConfig,
        env: Mapping[str, str],
        display: LiveProgress | PlainProgress,
        ledger: RunLedger,
        fresh: bool,
        level: str,
        replay: Collection[InstanceKey] = (),
        drain_timeout_s: float = float("inf"),
        file_watch: FileWatch | None = None,
        warm: bool = True,
    ) -> None:
        file_descriptors.raise_limit()
        # The last stage comes first, so that consumers are there when the head starts.
        here = Places(config, env)
        wanted = [
            (stage.name, instance)
            for stage in reversed(list(config.stages.values()))
            for instance in sorted({*range(1, stage.instances + 1), *(n for name, n in replay if name == stage.name)})
            if not stage.hosts or here.is_local(stage.name, instance)
        ]
        if not wanted:
            raise OperatorError(f"no stage of {config.path} runs on host {here.host!r}: there is nothing to start")
        self._lock = _lock_run(config, env, wanted, display)
        env = {**env, environment.RUN: self._lock.run, **({environment.REPLAY: "1"} if replay else {})}
        self._replay = bool(replay)
        self._config = config
        self._display = display
        self._ledger = ledger
        self._places = Places(config, env)
        self._watch = Watch(config, self._places, run=self._lock.run)
        self._last: dict[InstanceKey, dict[str, Any]] = {}
        self._signals = Signals()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._signals.fd, selectors.EVENT_READ)
        self.interrupts = 0
        self._draining = False
        # Without a head among its instances a run cannot drain: what comes from other hosts goes on coming.
        self._can_only_leave = bool(here.host) and not any(stage in config.heads for stage, _ in wanted)
        self._drain_timeout_s = drain_timeout_s
        self._drain_until = float("inf")
        self._adopt_at = 0.0
        self._env = env
        self._level = level
        self._file_watch = file_watch
        self._stdin = _own_stdin()
        self._processes = InstanceProcesses(warm)
        self._children = [self._new_child(*instance, fresh) for instance in wanted]

    def run(self) -> ExitCode:
        """Blocks until the run is over. DONE: every child has stopped in order; whether the ledger balances is not known here."""
        try:
            code = self._until_over()
            self._collect_final_snapshots(JOINED_S if code is ExitCode.DONE else 0.0)
            return code
        finally:
            self._stop_children()
            self._processes.close()
            self._watch.close()
            self._signals.close()
            if self._stdin is not None:
                os.close(self._stdin)
            self._lock.release()

    def _until_over(self) -> ExitCode:
        while not all(child.done for child in self._children):
            code = self._reap_and_start(time.monotonic())
            for snapshot in self._watch.poll(0.0):
                self._take(snapshot)
            self._adopt_dead_instances(time.monotonic())
            self._restart_changed(time.monotonic())
            self._read_stderr(TURN_S)
            for number in self._signals.read():
                self._interrupted(number.name)
            code = ExitCode.FAILED if self.interrupts > 1 else code or self._continue_drain(time.monotonic())
            if code is not None:
                return code
            self._display.turn()
        return ExitCode.DONE

    def _continue_drain(self, now: float) -> ExitCode | None:
        """Begins the drain if there is a reason for one, and keeps it going. Returns the exit code if it takes too long."""
        if not self._draining and (self.interrupts or (self._replay and self._letters_in_hand())):
            self._draining = True
            self._drain_until = now + self._drain_timeout_s
            for child in self._children if self._can_only_leave else ():
                child.stop_in_order()
        if not self._draining:
            return None
        up = {(child.stage, child.instance) for child in self._children if child.process is not None}
        heads = {key for key in up if key[0] in self._config.heads}
        self._watch.order_drain({key: snapshot for key, snapshot in self._last.items() if key in heads})
        self._display.draining({c.name: words for c in self._children if (words := self._why_absent(c))})
        if now < self._drain_until:
            return None
        reason = f"the drain has not ended within {self._drain_timeout_s:g} s"
        self._say("run.stop", reason=reason, hint="the next run goes on from what is committed")
        return ExitCode.DRAIN_TIMEOUT

    def _why_absent(self, child: ChildDaemon) -> str:
        """Why this life of a child has sent no snapshot, so that the drain waits for it; "" if it has, or is not waited for."""
        if child.done or child.process is None:
            return "" if child.done else child.why_absent
        last = self._last.get((child.stage, child.instance))
        return "" if last is not None and self._is_of_this_life(child, last) else "is starting"

    def _is_of_this_life(self, child: ChildDaemon, snapshot: dict[str, Any]) -> bool:
        """Whether the child's present process has sent it, as far as it says. A program in another language says its own pid, or
        none, and the child is its keeper."""
        if child.process is None:
            return False
        pid = child.process.pid
        return bool(self._config.stages[child.stage].command) or snapshot.get("pid", pid) == pid

    def _say(self, event: str, **values: object) -> None:
        self._display.line(fields(event=event, **values))

    # ---- children

    def _reap_and_start(self, now: float) -> ExitCode | None:
        """Finds the children that have died, and starts those that are due. Returns the exit code if that ends the run."""
        for child in self._children:
            pid = child.process.pid if child.process is not None else 0
            death = child.reap()
            code = None
            if death is not None:
                holder, *words = self._places.lock_words(child.stage, child.instance) or [""]
                words = words if holder == str(pid) else []
                child.note_ready(locks.READY in words)
                code = self._after_death(child, death, now, locks.CANNOT_GO_ON in words)
            elif child.process is None and not child.done and now >= child.start_at:
                code = self._start(child)
            if code is not None:
                return code
        return None

    def _start(self, child: ChildDaemon) -> ExitCode | None:
        """Spawns the child, or postpones that. Returns the exit code if it can never be spawned."""
        try:
            process = child.start()
        except OSError as error:
            if not is_temporary(error):
                self._say("run.failed", stage=child.name, reason=f"cannot be spawned: {error}")
                return ExitCode.FAILED
            child.postpone_start(error, time.monotonic())  # the others go on meanwhile
            again_in_s = round(child.start_at - time.monotonic())
            self._say("stage.start_postponed", stage=child.name, reason=error, again_in_s=again_in_s)
            return None
        self._ledger.restarts[child.stage] = sum(
            c.restarts for c in self._children if c.stage == child.stage and c.restarts > 0
        )
        self._selector.register(process.stderr, selectors.EVENT_READ, child)
        return None

    def _new_child(self, stage: str, instance: int, fresh: bool = False) -> ChildDaemon:
        stdin = None if self._config.stages[stage].inputs else self._stdin
        return ChildDaemon(self._processes, self._config.path, stage, instance, self._env, self._level, fresh, stdin)

    def _adopt_dead_instances(self, now: float) -> None:
        """Starts instances again that joined the run and have died. Their neighbours wait for them, since what they held comes
        again, and nobody else would start them. An instance that has left in order is not started again."""
        if now < self._adopt_at:
            return
        self._adopt_at = now + ADOPT_S
        places = self._places
        mine = {(child.stage, child.instance) for child in self._children}
        for stage in self._config.stages:
            for instance in places.instances(stage):
                key = stage, instance
                if not places.is_local(*key):
                    continue
                joined = key in self._last or places.belongs_to_run(*key)
                if key in mine or not joined or places.alive(*key) or places.stopped(*key) is not None:
                    continue
                self._say("stage.adopted", stage=f"{stage}.{instance}")
                self._children.append(self._new_child(stage, instance))

    def _restart_changed(self, now: float) -> None:
        """Starts the stages again whose files have changed, unless they could not be started with them."""
        watch = self._file_watch
        if watch is None or self._draining or not (changed := watch.changed(now)):
            return
        try:
            config = load(self._config.path, env=self._env)
        except ConfigError as error:
            self._say("files.wrong", reason=error, hint="what runs goes on as it is; mend it, and it is started again")
            return
        due = {stage: str(file.name) for stage, file in watch.stages_of(changed).items()}
        if self._config.path in changed:
            before, after = config_record.digests(self._config.text), config_record.digests(config.text)
            tables = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
            stages = {name.removeprefix("stages.") for name in tables if name.startswith("stages.")}
            if (
                stages - set(self._config.stages)
                or stages - set(config.stages)
                or _links(self._config) != _links(config)
            ):
                self._say(
                    "config.changed", hint="stages and links are those of the start: end this run and begin another"
                )
                return
            due |= dict.fromkeys(stages, self._config.path.name)
            if any(not name.startswith("stages.") for name in tables):
                due = dict.fromkeys(config.stages, self._config.path.name) | due
        self._config = config
        watch.follow(config)
        for child in self._children:
            if child.stage in due and not child.done:
                self._say("stage.restarting", stage=child.name, changed=due[child.stage])
                child.restart()

    def _after_death(self, child: ChildDaemon, death: ChildDeath, now: float, cannot_go_on: bool) -> ExitCode | None:
        """Plans the next start of a child that has died, or gives up and returns the exit code of the run.

        cannot_go_on  the child itself has noted that another start would not help
        """
        if self._places.stopped_at_end(child.stage, child.instance) is not None:
            child.finish()
            return None
        if child.restarting:
            child.start_soon(now)
            return None
        if self._can_only_leave and self._draining and death.code == 0:
            child.finish()
            return None
        if death.code == 0 and self._left(child):
            child.finish()
            self._say("stage.left", stage=child.name, hint="its siblings go on, or have ended")
            return None
        child.plan_restart(now, death)
        if death.code == ExitCode.USAGE:
            self._say("run.failed", stage=child.name, reason="cannot start: see its message above")
            return ExitCode.USAGE
        if child.cannot_start or cannot_go_on:
            failed = f"{child.failed_starts} starts failed, the last with {death}"
            why = failed if child.cannot_start else "cannot go on"
            self._say("run.failed", stage=child.name, reason=f"{why}: see its messages above")
            return ExitCode.FAILED
        self._say("stage.died", stage=child.name, how=death, restart_in_s=round(child.start_at - now, 1))
        return None

    def _left(self, child: ChildDaemon) -> bool:
        """Whether it left in order, as an operator asked it to, and siblings do its work, or have come to the end: then those
        below end too, and nobody would be there for its next life. The only instance of a stage is started again."""
        if self._places.stopped(child.stage, child.instance) is None:
            return False
        siblings = [c for c in self._children if c.stage == child.stage and c is not child]
        return any(c.process is not None or self._places.stopped_at_end(c.stage, c.instance) for c in siblings)

    def _take(self, snapshot: dict[str, Any]) -> None:
        key = snapshot["stage"], snapshot["instance"]
        before = self._last.get(key)
        if before is not None and before["incarnation"] != snapshot["incarnation"]:
            self._ledger.killed(before)
        if before is None and key not in {(child.stage, child.instance) for child in self._children}:
            self._say("stage.joined", stage=f"{key[0]}.{key[1]}", hint="it was started beside the run")
        self._last[key] = snapshot
        for child in self._children:
            if (child.stage, child.instance) == key:
                child.note_ready(snapshot["state"] not in NOT_UP and self._is_of_this_life(child, snapshot))
        self._display.snapshot(snapshot)

    def _read_stderr(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                continue
            stream: Any = key.fileobj
            lines = stream.readlines()
            for line in lines:
                self._display.line(line.decode(errors="replace").rstrip("\n"))
            if not lines and stream.read(1) == b"":
                self._selector.unregister(stream)
                stream.close()

    # ---- the end of the run

    def _letters_in_hand(self) -> bool:
        """Whether every instance has said in this life that it has taken all its marked letters in hand."""
        for child in self._children:
            snapshot = self._last.get((child.stage, child.instance))
            here = (
                snapshot is not None and self._is_of_this_life(child, snapshot) and snapshot["state"] != State.STARTING
            )
            if not child.done and (snapshot is None or not here or snapshot.get("replay_due")):
                return False
        return True

    def _interrupted(self, name: str) -> None:
        if name == "SIGHUP":  # also where the terminal has closed, which does not end a run
            self._say("run.reload", signal=name, hint="with --log-level info each instance says what it took over")
            for child in self._children:
                child.reload()
            return
        self.interrupts += 1
        if self.interrupts == 1:
            event = "run.leave" if self._can_only_leave else "run.drain"
            self._say(event, signal=name, hint="once more stops now")
        else:
            self._say("run.stop", signal=name)

    def _collect_final_snapshots(self, wait_s: float) -> None:
        """Gives the ledger the final snapshot of each instance, from the mark that it made when it stopped.

        Instances that joined the run are waited for. Of an instance without a mark, the last snapshot that was heard counts: as
        final if it still runs, and otherwise as that of a killed incarnation.
        """
        deadline = time.monotonic() + wait_s
        places = self._places
        for key in [(stage, n) for stage in self._config.stages for n in sorted(places.instances(stage))]:
            mine = key in self._last or places.belongs_to_run(*key)
            while mine and places.stopped_at_end(*key) is None and places.alive(*key) and time.monotonic() < deadline:
                for snapshot in self._watch.poll(TURN_S):
                    self._take(snapshot)
            final, last = places.stopped(*key), self._last.get(key)
            if last is not None and (not final or final["incarnation"] != last["incarnation"]):
                (self._ledger.final if places.alive(*key) else self._ledger.killed)(last)
            if final:  # a program in another language may have stopped without a snapshot
                self._ledger.final(final)

    def _stop_children(self) -> None:
        """Stops the children that are left. Nothing of what they hold was acked, so nothing is lost."""
        for kill in (False, True):
            for child in self._children:
                child.stop(kill)
            deadline = time.monotonic() + STOP_S
            while any(child.process is not None for child in self._children) and time.monotonic() < deadline:
                self._read_stderr(TURN_S)
                for child in self._children:
                    child.reap()
        self._read_stderr(0.0)


def _links(config: PipelineConfig) -> dict[str, tuple[object, ...]]:
    return {name: (stage.inputs, stage.instances, stage.listen) for name, stage in config.stages.items()}


def _own_stdin() -> int | None:
    """The standard input of this process, under a number that a child's own does not take. None where there is none."""
    try:
        return os.dup(0)
    except OSError:
        return None


def _lock_run(
    config: PipelineConfig,
    env: Mapping[str, str],
    wanted: Collection[InstanceKey],
    display: LiveProgress | PlainProgress,
) -> RunLock:
    """Takes the lock of the run, after checking that its instances can run here. Blocks for a few seconds where instances of a
    killed run are about to end. Raises OperatorError.

    The lock is not taken before that check, since instances that see it join the run.
    """
    places = Places(config, env)
    run_conflicts.wait_for_orphans(config, places, wanted, display)
    run_conflicts.refuse(config, places, wanted)
    lock = RunLock(places.root, config.name)
    try:
        for key in wanted:
            folders.make_private(places.state(*key))
            folders.make_private(places.runtime(*key))
    except OperatorError:
        lock.release()
        raise
    return lock
