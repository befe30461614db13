"""Watches a pipeline from outside: finds its instances, reads what they publish, sends them requests. Not here: what a
snapshot means."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from zpipe.config import InstanceKey, PipelineConfig
from zpipe.core.lifecycle import State
from zpipe.core.telemetry.snapshot import taken_in
from zpipe.core.wire import frames
from zpipe.errors import ConfigError, NoPeerError, OperatorError, PeerError
from zpipe.runtime.places import Places
from zpipe.transport import keyring
from zpipe.transport.curve import Problem

ASK_S = 3.0
TRUST_AGAIN_S = 2.0
"""While a handshake fails, keys are read again this often: `zpipe keys` may have changed them since."""
DRAIN_ANSWER_S = 1.0
FIND_S = 0.25
FIND_AGAIN_S = 2.0
"""Once every instance of the config was heard of, the watch looks for others only this often."""
ASK_UNHEARD_S = 0.1
"""Between two rounds of asking for a snapshot. A subscription takes some milliseconds to arrive, and misses what is published
before."""
FIRST_ASK_S = 0.01
"""On this machine a subscription has arrived by then; what is missed is asked for again."""
ASK_UNHEARD_ROUNDS = 10
UNHEARD_ANSWER_S = 0.05
"""A running instance answers within some milliseconds. One whose process is stopped must not hold up the others."""


def read_answer(encoded: bytes, instance: InstanceKey) -> frames.Frame:
    """What an instance has answered to a request. Raises OperatorError, which names it, for what is no frame: it may be a program
    in another language, and the others are still to be heard."""
    try:
        return frames.read(encoded)
    except PeerError as error:
        name = f"{instance[0]}.{instance[1]}"
        raise OperatorError(f"{name} answers a request with what is no frame of the protocol: {error}") from None


class Watch:
    """Used by one thread. `snapshots` has the last snapshot of each instance, also of those that have gone.

    run          take only snapshots of instances that belong to this run; "": all
    ask_unheard  ask instances for a snapshot that were not heard of yet, so that nobody has to wait for their interval
    """

    def __init__(self, config: PipelineConfig, places: Places, ask_unheard: bool = False, run: str = "") -> None:
        self.config = config
        self._run = run
        self._places = places
        self.snapshots: dict[InstanceKey, dict[str, Any]] = {}
        self._sockets = keyring.operator_sockets(config, places.private_key(), places.host, frames.SNAPSHOT_TOPIC)
        self._numbers = count(1)
        self._find_at = self._trust_at = 0.0
        self._rounds_left = ASK_UNHEARD_ROUNDS if ask_unheard else 0
        self._ask_unheard_at = time.monotonic() + FIRST_ASK_S
        self._expected = set(config.instances)
        self._drain_ordered: dict[InstanceKey, str] = {}

    def poll(self, timeout_s: float) -> list[dict[str, Any]]:
        """Waits at most so long for a snapshot, and returns those that came, oldest first."""
        self._find()
        self._ask_unheard()
        if self._rounds_left:  # whoever waits for a snapshot would else wait past the moment to ask for it
            timeout_s = min(timeout_s, max(self._ask_unheard_at - time.monotonic(), 0.0))
        came = []
        for multipart in self._sockets.read(timeout_s):
            snapshot = self._read(multipart)
            if snapshot is not None:
                self.snapshots[snapshot["stage"], snapshot["instance"]] = snapshot
                came.append(snapshot)
        return came

    def _find(self) -> None:
        """Connects to new instances. It looks for them only now and then, since a look costs 0.1 ms for each stage."""
        now = time.monotonic()
        if now < self._find_at:
            return
        self._find_at = now + (FIND_AGAIN_S if self._expected <= self.snapshots.keys() else FIND_S)
        if self._sockets.refused and now >= self._trust_at:
            self._trust_at = now + TRUST_AGAIN_S
            self._trust_again()
        for stage in self.config.stages:
            for instance in self._places.instances(stage):
                address, host = (
                    self._places.addresses(stage, instance).control,
                    self._places.other_host(stage, instance),
                )
                self._sockets.connect(address, host)

    def _trust_again(self) -> None:
        """Reads the trusted keys again: a run or a monitor may outlive those that it was started with."""
        with suppress(ConfigError):  # the file is broken: the keys that are known stay
            now = self._places.read_again()
            self._sockets.trust(keyring.trusted_hosts(now))

    def _ask_unheard(self) -> None:
        """Asks each instance for a snapshot that has not sent one yet."""
        now = time.monotonic()
        if not self._rounds_left or now < self._ask_unheard_at:
            return
        self._ask_unheard_at = now + ASK_UNHEARD_S
        self._rounds_left -= 1
        unheard = [key for key in self._expected if key not in self.snapshots]
        for stage, instance in unheard:
            if not self._places.is_local(stage, instance) or self._places.alive(stage, instance):
                self._ask_for_snapshot(stage, instance)
        if not unheard:
            self._rounds_left = 0

    def _ask_for_snapshot(self, stage: str, instance: int) -> None:
        """An instance of another host is asked without waiting for its answer: a connection that is given up before it is made
        looks there like somebody without a key."""
        host = self._places.other_host(stage, instance)
        if host:
            request = frames.write(frames.Request(next(self._numbers), "snapshot"))
            self._sockets.post(self._places.addresses(stage, instance).feedback, request, host)
            return
        with suppress(OperatorError):
            self.ask(stage, instance, "snapshot", UNHEARD_ANSWER_S)

    def _read(self, multipart: list[bytes]) -> dict[str, Any] | None:
        """The snapshot in a frame. None if it is anything else, of another pipeline or run, or broken: a watch survives what it
        reads."""
        try:
            frame = frames.read(multipart[1]) if len(multipart) == 2 else None
        except PeerError:
            return None
        if not isinstance(frame, frames.Snapshot):
            return None
        snapshot = taken_in(frame.body)
        if snapshot is None or snapshot["pipeline"] != self.config.name or snapshot["stage"] not in self.config.stages:
            return None
        return snapshot if not self._run or self._is_of_run(snapshot) else None

    def _is_of_run(self, snapshot: dict[str, Any]) -> bool:
        """An instance outside every run says so with an empty text, and is none of this run's. One that does not speak of runs at
        all, as it need not, is known by what its life has left in its state folder."""
        run = snapshot.get("run")
        return (
            run == self._run
            if run is not None
            else self._places.belongs_to_run(snapshot["stage"], snapshot["instance"])
        )

    def ask(self, stage: str, instance: int, what: str, timeout_s: float = ASK_S) -> str:
        """Sends a request to an instance and returns the state that it answers with. Blocks.

        Raises NoPeerError if it does not answer, and OperatorError if it refuses.
        """
        address = self._places.addresses(stage, instance).feedback
        request = frames.Request(next(self._numbers), what)
        host = self._places.other_host(stage, instance)
        encoded = self._sockets.ask(address, frames.write(request), timeout_s, host)
        if encoded is None:
            problem = self._sockets.refused.get(address)
            why = self._words_of(problem, host) if problem else "is it running?"
            raise self._places.no_peer_error(f"{stage}.{instance} does not answer at {address}: {why}")
        answer = read_answer(encoded, (stage, instance))
        if isinstance(answer, frames.Refuse):
            raise OperatorError(f"{stage}.{instance} refuses to {what}: {answer.reason}")
        return answer.state if isinstance(answer, frames.Done) else ""

    def order_drain(self, heads: Mapping[InstanceKey, dict[str, Any]]) -> None:
        """Orders each of these heads, of which the last snapshots are given, to close its source: once in each of its lives. One
        that is busy, or whose answer was lost, is told again when this is called again."""
        for key, snapshot in heads.items():
            over = snapshot["state"] == State.STOPPED
            if not over and self._drain_ordered.get(key) != snapshot["incarnation"]:
                with suppress(NoPeerError):
                    self.ask(*key, "drain", DRAIN_ANSWER_S)
                    self._drain_ordered[key] = snapshot["incarnation"]

    def ask_all(self, instances: Iterable[InstanceKey], what: str, timeout_s: float) -> tuple[list[str], list[str]]:
        """Sends a request to each. Returns the names of those that have done it, and of those that do not answer."""
        done, silent = [], []
        for stage, instance in instances:
            try:
                self.ask(stage, instance, what, timeout_s)
                done.append(f"{stage}.{instance}")
            except NoPeerError:
                silent.append(f"{stage}.{instance}")
        return done, silent

    @property
    def refused(self) -> dict[InstanceKey, str]:
        """Why instances of other hosts are not heard of, as far as that is known."""
        found = {}
        for stage in self.config.stages if self._sockets.refused else ():
            for instance in self._places.instances(stage):
                problem = self._sockets.refused.get(self._places.addresses(stage, instance).control)
                if problem:
                    found[stage, instance] = self._words_of(problem, self._places.other_host(stage, instance))
        return found

    def _words_of(self, problem: Problem, host: str) -> str:
        return keyring.words_of(problem, host, f"{self._places.host} = {self._sockets.public_key}")

    def close(self) -> None:
        self._sockets.close()


def ask_instances(
    config: PipelineConfig, env: Mapping[str, str], stage: str, instance: int | None, what: str
) -> Sequence[str]:
    """Sends a request to one instance of a stage, or to all that run. Returns the names of those that did it. Blocks.

    Raises NoPeerError if none runs, or if one that runs does not answer. The others have done it all the same.
    """
    places = Places(config, env)
    watch = Watch(config, places)
    try:
        numbers = [instance] if instance is not None else sorted(places.instances(stage))
        asked = [(stage, n) for n in numbers if not places.is_local(stage, n) or places.alive(stage, n)]
        done, silent = watch.ask_all(asked, what, ASK_S)
    finally:
        watch.close()
    if silent and (config.hosts or places.is_local(*asked[0])):
        did = f"; {', '.join(done)} did it" if done else ""
        if config.hosts:
            raise NoPeerError(f"{', '.join(silent)} does not answer (not running, or not to be reached?){did}")
        raise NoPeerError(f"{', '.join(silent)} runs but does not answer (stopped?): ask again{did}")
    if not done:
        name = stage if instance is None else f"{stage}.{instance}"
        raise places.no_peer_error(f"{name} of pipeline {config.name!r} is not running")
    return done
