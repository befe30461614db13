"""An instance whose stage is a program in another language, from the outside: its keeper.

The program has the sessions. Its keeper does what needs no protocol: it holds the lock of the instance, starts the program,
passes signals on, answers for it to systemd and to the supervisor, stores its dead letters, and leaves the mark of its end.
Must not live here: anything of a session.
"""

from __future__ import annotations

import ctypes
import json
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zpipe.config import PipelineConfig
from zpipe.core.lifecycle import State
from zpipe.core.telemetry.snapshot import taken_in
from zpipe.core.wire import frames
from zpipe.core.wire.frames import Announcement, Bury, Done, Refuse, Snapshot
from zpipe.core.work.stored_dead_letter import PROGRAM
from zpipe.daemon.service.limited_log import FAULTS_A_MINUTE, LineLimit
from zpipe.daemon.service.sdnotify import Notifier, ServiceStatus
from zpipe.daemon.storage.store import Store
from zpipe.errors import ExitCode, OperatorError, PeerError
from zpipe.folders import instance_name, make_private, remove
from zpipe.runtime import dead_letter_table, environment, locks, logs, running_pipelines
from zpipe.runtime.dead_letter_table import LetterRow
from zpipe.runtime.logs import fields
from zpipe.runtime.places import Places
from zpipe.runtime.signals import Signals, signal_name
from zpipe.transport.keeper_sockets import KeeperSockets

_PRCTL = ctypes.CDLL(None).prctl
_PR_SET_PDEATHSIG = 1
POLL_S = 0.25
MOST_LETTER_BYTES = 17 << 20
"""A little above the largest message."""
SILENCE_S = 5.0
"""The watchdog is fed no more when the program has announced nothing for so long; an announcement is due each second."""


def resolved(config: PipelineConfig, stage: str, instance: int, places: Places) -> dict[str, Any]:
    """What ZPIPE_CONFIG tells the program of the config. PROTOCOL.md, "Started by zpipe", has the keys."""
    settings = config.stages[stage]
    remote = places.remote(stage, instance)
    return {
        "pipeline": config.name,
        "stage": stage,
        "inputs": [
            {
                "stage": one.stage,
                "outlet": one.outlet,
                "instances": config.stages[one.stage].instances,
                "elsewhere": _elsewhere(config, one.stage, places),
            }
            for one in settings.inputs
        ],
        "outputs": [{"outlet": outlet, "to": to} for outlet, to in config.consumers(stage)],
        "queue": {"messages": settings.queue.messages, "bytes": settings.queue.bytes},
        "unacked": {"messages": settings.unacked.messages, "bytes": settings.unacked.bytes},
        "interval_s": config.interval_s,
        "peer_timeout_s": config.peer_timeout_s,
        "host": places.host,
        "hosts": {one.name: {"address": one.address, "keys": list(one.keys)} for one in config.hosts.values()},
        "listen": remote._asdict() if remote is not None else None,
        "options": settings.options,
    }


def _elsewhere(config: PipelineConfig, stage: str, places: Places) -> list[dict[str, Any]]:
    """The instances of an input that are on other hosts, and their addresses."""
    found = []
    for instance in range(1, config.stages[stage].instances + 1):
        if host := places.other_host(stage, instance):
            addresses = places.addresses(stage, instance)._asdict()
            found.append({"instance": instance, "host": host, **addresses})
    return found


def run_program(
    config: PipelineConfig, stage: str, instance: int, env: Mapping[str, str], fresh: bool = False, level: str = "info"
) -> ExitCode:
    """Runs one instance's program until it has ended. Raises OperatorError if it cannot be started.

    fresh  what the program has kept in its part of the state folder is removed before
    """
    # The config says on which host an instance is, not the name of this machine.
    if host := config.host_of(stage, instance):
        env = {**env, environment.HOST: host}
    places = Places(config, env)
    if places.run and places.stopped_at_end(stage, instance) is not None:
        return ExitCode.DONE  # it stopped at the end of this run already; its restart has nothing to do
    if _nothing_to_come(config, stage, places):
        # Its last life crashed after all its producers had ended, which they do only when all that they sent is acked. A program
        # cannot see their marks: it would wait for producers that never come.
        places.mark(stage, instance, True, {})
        return ExitCode.DONE
    keeper = Keeper(config, stage, instance, env, places, fresh, level)
    try:
        return keeper.run()
    finally:
        keeper.close()


def _nothing_to_come(config: PipelineConfig, stage: str, places: Places) -> bool:
    """Whether every producer of the stage has ended in this run."""
    producers = [
        (one.stage, instance) for one in config.stages[stage].inputs for instance in places.instances(one.stage)
    ]
    return bool(places.run and producers) and all(places.stopped_at_end(*one) is not None for one in producers)


def _end_with_parent() -> None:
    """Called in the child, between fork and exec (prctl(2))."""
    _PRCTL(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


class Keeper:
    """Keeps one life of the program: from its start in the constructor until `close`."""

    def __init__(
        self,
        config: PipelineConfig,
        stage: str,
        instance: int,
        env: Mapping[str, str],
        places: Places,
        fresh: bool,
        level: str,
    ) -> None:
        self._config, self._stage, self._instance, self._env = config, stage, instance, env
        self._places = places
        runtime, state = places.runtime(stage, instance), places.state(stage, instance)
        self._lock = locks.InstanceLock(runtime, instance_name(config.name, stage, instance))
        self._log = logs.start(f"{stage}.{instance}", level, env)
        make_private(state)
        if fresh:
            remove(places.plugin_state(stage, instance))
        make_private(places.plugin_state(stage, instance))
        places.begin_life(stage, instance)
        running_pipelines.write_record(places, config, stage, instance)
        letters = f"ipc://{runtime}/dead_letters.sock"
        self._program = self._start(runtime.parent, state, letters)
        control = places.addresses(stage, instance).control  # at once: it may announce itself soon
        self._sockets = KeeperSockets(control, letters, frames.ANNOUNCEMENT_TOPIC, frames.SNAPSHOT_TOPIC)
        self._store = Store(state)
        self._store.start()
        self._stored: queue.SimpleQueue[tuple[bytes, frames.Frame]] = queue.SimpleQueue()
        self._signals = Signals()
        self._sockets.watch_fd(self._signals.fd)
        self._supervised = bool(env.get(environment.SUPERVISED))
        if self._supervised:
            self._sockets.watch_fd(sys.stdin.fileno())
        self._notifier = Notifier(env, self._status)
        self._said: Announcement | None = None
        self._heard_at = time.monotonic()
        self._snapshot: dict[str, Any] = {}
        self._warned_of_snapshots = False
        self._stop_signals = 0
        self._malformed = LineLimit(FAULTS_A_MINUTE)

    def _start(self, runtime_root: Path, state: Path, letters: str) -> subprocess.Popen[bytes]:
        told = {
            "ZPIPE_RUNTIME_DIR": str(runtime_root),
            "ZPIPE_STATE_DIR": str(state.parent),
            "ZPIPE_PIPELINE": self._config.name,
            "ZPIPE_STAGE": self._stage,
            "ZPIPE_INSTANCE": str(self._instance),
            "ZPIPE_RUN": self._places.run,
            "ZPIPE_DEAD_LETTERS": letters,
            "ZPIPE_CONFIG": json.dumps(resolved(self._config, self._stage, self._instance, self._places)),
            "ZPIPE_KEY_FILE": self._places.key_file(),
        }
        own = {name: value for name, value in self._env.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
        settings = self._config.stages[self._stage]
        try:
            # Its output goes where the keeper's goes. It has a process group of its own, since the keeper passes signals on. It
            # ends with its keeper, however that ends: else the next life's program would bind the same addresses beside it.
            return subprocess.Popen(
                settings.command,
                cwd=self._config.folder,
                env={**own, **told},
                stdin=subprocess.DEVNULL,
                process_group=0,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 -- this process has no other thread yet
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._lock.note_state(locks.CANNOT_GO_ON)
            reason = error.strerror if isinstance(error, OSError) else error
            where = f"cannot start {settings.command[0]!r} in {self._config.folder}"
            raise OperatorError(f"stages.{self._stage}.command: {where}: {reason}") from None

    # ---- its life

    def run(self) -> ExitCode:
        """Blocks until the program has ended."""
        self._log.info(
            fields(event="program.started", command=self._config.stages[self._stage].runs, pid=self._program.pid)
        )
        while self._program.poll() is None:
            self._turn()
        self._read_published()
        self._read_told()
        return self._ended(self._program.returncode)

    def _turn(self) -> None:
        for fd in self._sockets.poll(POLL_S):
            if fd == self._signals.fd:
                self._pass_signals_on()
            else:
                self._log.error(fields(event="supervisor.gone"))
                self._program.kill()
                self._program.wait()
                return
        self._read_published()
        self._read_told()
        while not self._stored.empty():
            route, answer = self._stored.get()
            self._sockets.answer(route, frames.write(answer))
        now = time.monotonic()
        if now - self._heard_at < SILENCE_S:
            self._notifier.turn(now)

    def _pass_signals_on(self) -> None:
        for number in self._signals.read():
            if number == signal.SIGHUP:
                hint = "a program is told of its config when it starts: restart it"
                self._log.warning(fields(event="reload.refused", hint=hint))
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop_signals += 1
                self._log.info(fields(event="leaving", signal=number.name, hint="once more kills the program"))
                self._program.send_signal(signal.SIGTERM if self._stop_signals == 1 else signal.SIGKILL)

    def _read_published(self) -> None:
        for parts in self._sockets.published():
            try:
                if len(parts) != 2:
                    raise PeerError(f"it publishes {len(parts)} frames at once: they are a topic and a frame")
                frame = frames.read(parts[1])
            except PeerError as error:
                self._note_malformed(error)
                continue
            self._take_published(frame)

    def _take_published(self, frame: frames.Frame) -> None:
        if isinstance(frame, Snapshot):
            self._take_snapshot(frame.body)
        elif isinstance(frame, Announcement):
            self._heard(frame)

    def _note_malformed(self, error: PeerError) -> None:
        left_out = self._malformed.admit(str(error), time.monotonic())
        if left_out is not None:
            self._log.warning(fields(event="program.malformed", reason=error, left_out=left_out or None))

    def _take_snapshot(self, body: dict[str, Any]) -> None:
        snapshot = taken_in(body)
        if snapshot is not None:
            self._snapshot = snapshot
            self._mark_the_end()
        elif not self._warned_of_snapshots:
            self._warned_of_snapshots = True
            reason = "its snapshots lack what PROTOCOL.md 5.9 requires, or have no number where one belongs: nobody shows them"
            self._log.warning(fields(event="program.malformed", reason=reason))

    def _heard(self, frame: Announcement) -> None:
        self._heard_at = time.monotonic()
        before = self._state()
        self._said = frame
        if before == State.STARTING.value != frame.state:
            self._lock.note_state(locks.READY)
            self._notifier.ready()
            self._log.info(
                fields(event="ready", command=self._config.stages[self._stage].runs, incarnation=frame.incarnation)
            )
        if frame.state == State.STOPPED.value != before:
            self._notifier.stopping()
        self._mark_the_end()

    def _mark_the_end(self) -> None:
        """Leaves the mark once the program has announced STOPPED and its last snapshot says so, too. With an earlier snapshot, a
        keeper that is killed now would leave the mark of an instance that still holds messages."""
        stopped = State.STOPPED.value
        if self._said is not None and self._said.state == stopped == self._snapshot.get("state"):
            self._leave_mark()

    def _leave_mark(self) -> None:
        """Leaves the mark of a stop for the ledger, and for neighbours that start later."""
        assert self._said is not None
        try:
            self._places.mark(self._stage, self._instance, self._said.ended, self._snapshot)
        except OSError as error:
            self._log.error(fields(event="mark.unwritten", reason=error.strerror))

    def _ended(self, code: int) -> ExitCode:
        state = self._said.state if self._said is not None else "no state"
        if code == 0 and state == State.STOPPED.value:
            self._leave_mark()  # again, with the last snapshot
            self._places.end_life(self._stage, self._instance)
            self._log.info(fields(event="exit", state=state, failed=False))
            return ExitCode.DONE
        how = signal_name(-code) if code < 0 else f"exit code {code}"
        hint = "a program announces STOPPED before it ends" if code == 0 else None
        self._log.error(fields(event="program.failed", how=how, state=state, hint=hint))
        return ExitCode.FAILED

    def _state(self) -> str:
        return self._said.state if self._said is not None else State.STARTING.value

    def _status(self) -> ServiceStatus:
        state = self._state()
        counts = tuple(int(self._snapshot.get(name, 0)) for name in ("received", "completed"))
        draining = self._stop_signals > 0 or state in (State.DRAINING.value, State.FLUSHED.value)
        return ServiceStatus(f"{state}, program pid {self._program.pid}", counts, draining)

    # ---- what it tells its keeper alone

    def _read_told(self) -> None:
        for parts in self._sockets.told():
            self._take_told(parts[0], parts[-1])

    def _take_told(self, route: bytes, encoded: bytes) -> None:
        """A dead letter is stored, and answered once that is durable. A snapshot or an announcement is answered at once."""
        try:
            frame = frames.read(encoded, MOST_LETTER_BYTES)
        except PeerError as error:
            self._note_malformed(error)
            self._sockets.answer(route, frames.write(Refuse(b"", str(error)[:500], 0)))
            return
        if isinstance(frame, (Announcement, Snapshot)):
            self._take_published(frame)
            self._sockets.answer(route, frames.write(Done(0, self._state())))
            return
        if not isinstance(frame, Bury):
            reason = f"this address takes `bury`, `announcement` and `snapshot`, and no {frame.kind}"
            self._sockets.answer(route, frames.write(Refuse(b"", reason, getattr(frame, "number", 0))))
            return
        row = LetterRow(
            stage=self._stage,
            id=frame.id,
            origin=frame.origin,
            kind=PROGRAM,
            reason=frame.reason,
            traceback="",
            attempts=frame.attempts,
            deaths=0,
            history=(),
            headers=None,
            payload=frame.payload,
            source=frame.source or self._only_input(),
        )
        incarnation, state = self._said.incarnation if self._said is not None else "", self._state()

        def done(error: Exception | None) -> None:  # on the store's thread; the answer is sent by the next turn
            answer = Done(frame.number, state) if error is None else Refuse(b"", str(error)[:500], frame.number)
            self._stored.put((route, answer))

        self._log.warning(fields(event="dead_letter", id=frame.id, attempts=frame.attempts, reason=frame.reason))
        self._store.ask(lambda connection: dead_letter_table.add(connection, row, incarnation), done)

    def _only_input(self) -> str:
        inputs = self._config.stages[self._stage].inputs
        return f"{inputs[0].stage}.{inputs[0].outlet}".rstrip(".") if len(inputs) == 1 else ""

    def close(self) -> None:
        if self._program.poll() is None:
            self._program.kill()
            self._program.wait()
        self._store.close()
        self._sockets.close()
        self._notifier.close()
        self._signals.close()
        self._lock.release()
