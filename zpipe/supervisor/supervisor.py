"""`zpipe run`: every stage as a child daemon, until the sources have ended and everything is acked.

May live here: what a run does when a child dies, when the operator asks for a drain, and when it is over.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Collection, Mapping
from typing import Any

from zpipe import folders
from zpipe.config import PipelineConfig
from zpipe.core.lifecycle import State
from zpipe.errors import ExitCode, NoPeerError, OperatorError
from zpipe.operate.watch import Watch
from zpipe.runtime import descriptors, environment, locks
from zpipe.runtime.locks import RunLock
from zpipe.runtime.logs import fields
from zpipe.runtime.places import Places
from zpipe.runtime.signals import Signals
from zpipe.supervisor import occupants
from zpipe.supervisor.children import ChildDaemon, Death, passes
from zpipe.supervisor.onlookers import RunDisplay, RunLedger

TURN_S = 0.1
STOP_S = 5.0
ADOPT_S = 1.0
NOT_UP = (State.STARTING.value, State.FAILED.value)
"""Of an instance that says so nobody knows yet whether it can start at all."""
EXTRA_S = 5.0
"""How long the end of a run waits for instances that were started beside it."""


class Supervisor:
    """One run. Raises OperatorError if it cannot begin: nothing is started, nobody is asked for anything then.

    It hears, orders and starts again only instances that belong to it, which say so in their snapshots: those it started, and
    those that joined it.

    replay           instances with dead letters to be replayed: sources are not read, and when every letter has come the run
                     drains
    drain_timeout_s  how long a drain may take before it is cut off
    """

    def __init__(
        self,
        config: PipelineConfig,
        env: Mapping[str, str],
        display: RunDisplay,
        ledger: RunLedger,
        fresh: bool,
        level: str,
        replay: Collection[tuple[str, int]] = (),
        drain_timeout_s: float = float("inf"),
    ) -> None:
        descriptors.raise_limit()
        # From the tail, so that consumers are there when the head starts.
        wanted = [
            (stage.name, instance)
            for stage in reversed(list(config.stages.values()))
            for instance in sorted({*range(1, stage.instances + 1), *(n for name, n in replay if name == stage.name)})
        ]
        self._lock = _claim(config, env, wanted)
        env = {**env, environment.RUN: self._lock.run, **({environment.REPLAY: "1"} if replay else {})}
        self._replay = bool(replay)
        self._config = config
        self._display = display
        self._ledger = ledger
        self._watch = Watch(config, env, run=self._lock.run)
        self._heard: dict[tuple[str, int], dict[str, Any]] = {}
        self._signals = Signals()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._signals.fd, selectors.EVENT_READ)
        self._drain_asked: dict[str, str] = {}
        self.interrupts = 0
        self._draining = False
        self._drain_timeout_s = drain_timeout_s
        self._drain_until = float("inf")
        self._adopt_at = 0.0
        self._env = env
        self._level = level
        self._children = [self._new_child(*instance) for instance in wanted]
        for child in self._children:
            child.fresh = fresh
        self._heads = {stage.name for stage in config.stages.values() if not stage.inputs}

    def run(self) -> ExitCode:
        """Blocks until the run is over. DONE: every child stopped in order; the ledger says whether it balances."""
        try:
            code = self._turns()
            self._collect(EXTRA_S if code is ExitCode.DONE else 0.0)
            return code
        finally:
            self._end()

    def _turns(self) -> ExitCode:
        while not all(child.done for child in self._children):
            code = self._tend(time.monotonic())
            for snapshot in self._watch.poll(0.0):
                self._see(snapshot)
            self._adopt(time.monotonic())
            self._read_stderr(TURN_S)
            for number in self._signals.read():
                self._interrupted(number.name)
            code = ExitCode.FAILED if self.interrupts > 1 else code or self._drain_on(time.monotonic())
            if code is not None:
                return code
            self._display.turn()
        return ExitCode.DONE

    def _drain_on(self, now: float) -> ExitCode | None:
        """Begins a drain, and goes on with one; the exit code of one that takes too long."""
        if not self._draining and (self.interrupts or (self._replay and self._replayed())):
            self._draining = True
            self._drain_until = now + self._drain_timeout_s
        if not self._draining:
            return None
        self._drain()
        self._display.draining({c.name: words for c in self._children if (words := self._absence(c))})
        if now < self._drain_until:
            return None
        reason = f"the drain has not ended within {self._drain_timeout_s:g} s"
        self._display.line(fields(event="run.stop", reason=reason, hint="the next run goes on from what is committed"))
        return ExitCode.DRAIN_TIMEOUT

    def _absence(self, child: ChildDaemon) -> str:
        """Why nothing is heard of this life of a child that the drain waits for; "" if there is."""
        if child.done or child.process is None:
            return "" if child.done else child.absence
        pid = child.process.pid
        heard = self._heard.get((child.stage, child.instance), {"pid": 0}).get("pid", pid) == pid
        return "" if heard else "is starting"

    # ---- children

    def _tend(self, now: float) -> ExitCode | None:
        """Sees who has died, and starts who is to be started. The exit code of the run if that is its end."""
        for child in self._children:
            pid = child.process.pid if child.process is not None else 0
            death = child.reap()
            code = None
            if death is not None:
                holder, *words = self._watch.places.lock_words(child.stage, child.instance) or [""]
                words = words if holder == str(pid) else []
                child.ready |= locks.READY in words
                code = self._died(child, death, now, locks.CANNOT_GO_ON in words)
            elif child.process is None and not child.done and now >= child.start_at:
                code = self._start(child)
            if code is not None:
                return code
        return None

    def _start(self, child: ChildDaemon) -> ExitCode | None:
        """Spawns it, or puts that off; or the exit code, where it can never be spawned."""
        try:
            child.start()
        except OSError as error:
            if not passes(error):
                reason = f"cannot be spawned: {error}"
                self._display.line(fields(event="run.failed", stage=child.name, reason=reason))
                return ExitCode.FAILED
            child.put_off(error, time.monotonic())  # what runs goes on meanwhile
            again_in_s = round(child.start_at - time.monotonic())
            self._display.line(fields(event="stage.unstarted", stage=child.name, reason=error, again_in_s=again_in_s))
            return None
        self._ledger.restarts[child.stage] = sum(
            c.restarts for c in self._children if c.stage == child.stage and c.restarts > 0
        )
        assert child.stderr is not None
        self._selector.register(child.stderr, selectors.EVENT_READ, child)
        return None

    def _new_child(self, stage: str, instance: int) -> ChildDaemon:
        return ChildDaemon(self._config.path, stage, instance, self._env, self._level)

    def _adopt(self, now: float) -> None:
        """An instance that was started beside the run and died is started again here: its neighbours wait for it, since what
        it held comes again, and nobody else would start it. One that left is let go."""
        if now < self._adopt_at:
            return
        self._adopt_at = now + ADOPT_S
        places = self._watch.places
        mine = {(child.stage, child.instance) for child in self._children}
        for stage in self._config.stages:
            for instance in places.instances(stage) if places.local(stage) else ():
                key = stage, instance
                joined = key in self._heard or places.belongs_to_run(*key)
                if key in mine or not joined or places.alive(*key) or places.stopped(*key) is not None:
                    continue
                self._display.line(fields(event="stage.adopted", stage=f"{stage}.{instance}"))
                self._children.append(self._new_child(stage, instance))

    def _died(self, child: ChildDaemon, death: Death, now: float, hopeless: bool) -> ExitCode | None:
        """Starts it again later, or gives up (the exit code). `hopeless`: by its own word."""
        if self._watch.places.stopped_at_end(child.stage, child.instance) is not None:
            child.done = True
            return None
        if death.code == 0 and self._left(child):
            child.done = True
            self._display.line(fields(event="stage.left", stage=child.name, hint="its siblings go on"))
            return None
        child.plan_restart(now, death)
        if death.code == ExitCode.USAGE:
            self._display.line(
                fields(event="run.failed", stage=child.name, reason="cannot start: see its message above")
            )
            return ExitCode.USAGE
        if child.hopeless or hopeless:
            why = f"{child.failed_starts} starts failed, the last with {death}" if child.hopeless else "cannot go on"
            reason = f"{why}: see its messages above"
            self._display.line(fields(event="run.failed", stage=child.name, reason=reason))
            return ExitCode.FAILED
        delay_s = round(child.start_at - now, 1)
        self._display.line(fields(event="stage.died", stage=child.name, how=death, restart_in_s=delay_s))
        return None

    def _left(self, child: ChildDaemon) -> bool:
        """It left in order, by the operator's wish, and siblings do its work. A stage's only instance is started again."""
        siblings = [c for c in self._children if c.stage == child.stage and c is not child and c.process is not None]
        return bool(siblings) and self._watch.places.stopped(child.stage, child.instance) is not None

    def _see(self, snapshot: dict[str, Any]) -> None:
        key = snapshot["stage"], snapshot["instance"]
        before = self._heard.get(key)
        if before is not None and before["incarnation"] != snapshot["incarnation"]:
            self._ledger.killed(before)
        self._heard[key] = snapshot
        for child in self._children:
            if (child.stage, child.instance) == key:
                pid = getattr(child.process, "pid", 0)
                child.ready |= snapshot["state"] not in NOT_UP and snapshot.get("pid", pid) == pid
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

    # ---- the end

    def _replayed(self) -> bool:
        """Every instance has said in this life that there is no letter it has not taken in hand."""
        for child in self._children:
            snapshot = self._heard.get((child.stage, child.instance))
            pid = child.process.pid if child.process is not None else None
            here = snapshot is not None and snapshot.get("pid", pid) == pid and snapshot["state"] != State.STARTING
            if not child.done and (snapshot is None or not here or snapshot.get("replay_due")):
                return False
        return True

    def _interrupted(self, name: str) -> None:
        if name == "SIGHUP":
            return
        self.interrupts += 1
        if self.interrupts == 1:
            self._display.line(fields(event="run.drain", signal=name, hint="once more stops now"))
        else:
            self._display.line(fields(event="run.stop", signal=name))

    def _drain(self) -> None:
        """Orders every head to close its source; one that was restarted since is told again."""
        for child in self._children:
            snapshot = self._heard.get((child.stage, child.instance))
            if child.stage not in self._heads or child.process is None or snapshot is None:
                continue
            if (
                self._drain_asked.get(child.name) == snapshot["incarnation"]
                or snapshot["state"] == State.STARTING.value
            ):
                continue
            try:
                self._watch.ask(child.stage, child.instance, "drain", timeout_s=1.0)
            except NoPeerError:
                continue  # it died or is busy: the next turn asks again
            self._drain_asked[child.name] = snapshot["incarnation"]

    def _collect(self, wait_s: float) -> None:
        """The final counts, from the marks that the instances left; those that joined the run are waited for. Of one that
        left none its last snapshot: final if it runs on, else that of an incarnation that was killed."""
        deadline = time.monotonic() + wait_s
        places = self._watch.places
        for key in [(stage, n) for stage in self._config.stages for n in sorted(places.instances(stage))]:
            mine = key in self._heard or places.belongs_to_run(*key)
            while mine and places.stopped_at_end(*key) is None and places.alive(*key) and time.monotonic() < deadline:
                for snapshot in self._watch.poll(TURN_S):
                    self._see(snapshot)
            final, last = places.stopped(*key), self._heard.get(key)
            if last is not None and (final is None or final["incarnation"] != last["incarnation"]):
                (self._ledger.final if places.alive(*key) else self._ledger.killed)(last)
            if final is not None:
                self._ledger.final(final)

    def _end(self) -> None:
        """Whatever is left of the children is stopped: nothing of what they hold was acked."""
        for kill in (False, True):
            for child in self._children:
                child.end(kill)
            deadline = time.monotonic() + STOP_S
            while any(child.process is not None for child in self._children) and time.monotonic() < deadline:
                self._read_stderr(TURN_S)
                for child in self._children:
                    child.reap()
        self._read_stderr(0.0)
        self._watch.close()
        self._signals.close()
        self._lock.release()


def _claim(config: PipelineConfig, env: Mapping[str, str], wanted: Collection[tuple[str, int]]) -> RunLock:
    """The lock of the run, once it is sure that the places of its instances are free and can be used. Before that the lock is
    not taken: instances that see it join. Raises OperatorError."""
    places = Places(config, env)
    occupants.refuse(config, places, wanted)
    lock = RunLock(places.root, config.name)
    try:
        for key in wanted:
            folders.make_private(places.state(*key))
            folders.make_private(places.runtime(*key))
    except OperatorError:
        lock.release()
        raise
    return lock
