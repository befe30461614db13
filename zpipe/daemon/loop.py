"""The loop: polls until the core's deadline, hands it what came, performs what it asks for.

May live here: the order of a turn, and one method an action. It owns the clock. It decides nothing about messages; a frame
that breaks the protocol is counted, logged at a limited rate and dropped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from zpipe.core import actions as act
from zpipe.core.stage import Stage
from zpipe.core.wire import frames
from zpipe.daemon.faults import Fault
from zpipe.daemon.mailbox import Mailbox
from zpipe.daemon.plugin.source_thread import SourceThread
from zpipe.daemon.service.malformed import MalformedLog, Source
from zpipe.daemon.service.notes import Notes
from zpipe.daemon.storage.dead_letter_keeper import DeadLetterKeeper
from zpipe.daemon.storage.dead_letter_log import DeadLetterLog
from zpipe.daemon.storage.position_writer import PositionWriter
from zpipe.daemon.storage.store import Saved, Store
from zpipe.daemon.workers.output_gate import OutputGate
from zpipe.daemon.workers.pool import Pool
from zpipe.errors import PeerError
from zpipe.runtime.logs import fields
from zpipe.transport.arrival import Arrival
from zpipe.transport.sockets import Sockets, sender

NEVER = float("inf")


class Loop:
    """The shell of one instance. `run` blocks until the core exits or `stop` is called."""

    def __init__(
        self,
        stage: Stage,
        sockets: Sockets,
        mailbox: Mailbox,
        workers: Pool | None,
        feeder: SourceThread | None,
        store: Store,
        gate: OutputGate,
        log: logging.Logger,
        letter_log: DeadLetterLog,
    ) -> None:
        self.stage = stage
        self.failed = False
        self.on_fd: dict[int, Callable[[], None]] = {mailbox.wakeup.fd: mailbox.wakeup.clear}
        self.on_stop: Callable[[bool], None] = lambda ended: None
        self.letters = DeadLetterKeeper(stage, store, mailbox, log, letter_log)
        self.on_turn: list[Callable[[float], float]] = [self.letters.turn]
        self.on_remember: Callable[[bool], None] = lambda paused: None
        self.may_exit: Callable[[], bool] = lambda: True
        self.saved = Saved()
        self.run_id: Callable[[], str] = str
        self._sockets = sockets
        self._mailbox = mailbox
        self._workers = workers
        self._source_thread = feeder
        self._store = store
        self._gate = gate
        self._log = log
        self._notes = Notes(log)
        state = f"cannot write {store.path}"
        unsaved = Fault(log, "position.unwritten", "position.written", state)
        self.faults = [unsaved, self.letters.fault]
        stored = stage.committed
        self.position = PositionWriter(store, mailbox, unsaved, self._to_save, stored)
        self._over = False
        self._exit: act.Exit | None = None
        self._malformed = MalformedLog(log)
        self._perform: dict[type[Any], Callable[[Any], object]] = {
            act.SendParcel: self._send_parcel,
            act.StartTask: self._start_task,
            act.Tell: lambda a: self._sockets.tell(a.peer, a.frame),
            act.Reply: lambda a: self._sockets.reply(a.route, a.frame),
            act.Publish: self._publish,
            act.Note: lambda a: self._notes.write(a, time.monotonic()),
            act.OpenSession: self._open_session,
            act.CloseSession: self._close_session,
            act.StoreDeadLetter: self.letters.bury,
            act.SendDeadLetter: self.letters.post,
            act.TakeLetters: self.letters.take,
            act.RemoveLetter: self.letters.remove,
            act.Commit: self.position.ask,
            act.LimitOutputs: self._set_gate,
            act.CloseSource: self._close_source,
            act.Remember: lambda a: self.on_remember(a.paused),
            act.Stop: lambda a: self.on_stop(a.ended),
            act.Exit: self._set_exit,
        }

    def run(self) -> None:
        """Turns until the core is done."""
        for fd in self.on_fd:
            self._sockets.watch_fd(fd)
        while not self._over:
            self.turn()

    def stop(self, failed: bool) -> None:
        """LinkEnds the loop after this turn, whatever the core holds: its upstream answers for it."""
        self._over = True
        self.failed = failed

    def turn(self) -> None:
        """One turn. The only place that waits."""
        now = time.monotonic()
        at = min(self.stage.next_timeout(), self.position.turn(now), *(call(now) for call in self.on_turn))
        if self._source_thread is not None:
            self._source_thread.eager = not self.stage.has_unsent
        self._mailbox.asleep = True
        ready = bool(self._mailbox) or (self._source_thread is not None and self._source_thread.waiting and self._room)
        arrivals = self._sockets.poll(0.0 if ready else at - time.monotonic())
        for arrival in arrivals:
            self._mailbox.asleep = False
            self._handle(arrival, time.monotonic())
        self._mailbox.asleep = False
        self._mailbox.run()
        now = time.monotonic()
        self._feed(now)
        for action in self.stage.turn(now):
            self._perform[type(action)](action)
        if self._exit is not None and (self._exit.failed or self.may_exit()):
            self.stop(self._exit.failed)

    # ---- what comes in

    def _handle(self, arrival: Arrival, now: float) -> None:
        stage, multipart = self.stage, arrival.frames
        try:
            match arrival.what:
                case "parcel":
                    if len(multipart) != 2:
                        raise PeerError("not the two frames of a header and a body")
                    stage.parcel_received(multipart[0], multipart[1], now)
                case "feedback":
                    if len(multipart) != 2:
                        raise PeerError("not a single frame")
                    stage.feedback_received(multipart[0], multipart[1], now, sender(arrival))
                case "control":
                    self._subscribed(arrival)
                case "upstream":
                    stage.upstream_received(arrival.key, multipart[0], now)
                case "announcement":
                    stage.upstream_received(arrival.key, multipart[1] if len(multipart) == 2 else b"", now)
                case "up":
                    self._log.debug(fields(event="upstream.connected", upstream=_name(arrival.key)))
                    stage.upstream_connected(arrival.key, now)
                case "down":
                    self._log.debug(fields(event="upstream.disconnected", upstream=_name(arrival.key)))
                    stage.upstream_disconnected(arrival.key, now)
                case "ready":
                    stage.session_ready(arrival.key)
                case "lost":
                    stage.session_lost(arrival.key)
                case "fd":
                    self.on_fd[arrival.key]()
        except PeerError as error:
            stage.frame_malformed()
            self._malformed.note(self._source(arrival, error), error, now)

    def _subscribed(self, arrival: Arrival) -> None:
        """Raises PeerError, and ends the connection, if it is no subscription to what is published: with the connection goes what
        libzmq keeps of it."""
        try:
            frames.check_subscription(b"".join(arrival.frames))
        except PeerError:
            self._sockets.cut(arrival)
            raise

    def _source(self, arrival: Arrival, error: PeerError) -> Source:
        match arrival.what:
            case "parcel":
                return Source("inbox", error.peer, sender(arrival))
            case "feedback":
                return Source("feedback", self.stage.consumer_at(arrival.frames[0]), sender(arrival))
            case "control":
                return Source("control", sender=sender(arrival))
            case "upstream":
                return Source("upstream.feedback", _name(arrival.key))
            case _:
                return Source("upstream.control", _name(arrival.key))

    @property
    def _room(self) -> bool:
        return not self.stage.over

    def _feed(self, now: float) -> None:
        """Before a snapshot also what is too little to be worth it: it counts what the source has given."""
        feeder = self._source_thread
        if feeder is None:
            return
        rest = now >= self.stage.snapshot_at
        while (batch := feeder.take(rest)) is not None:
            rest = False
            self.stage.source_emitted(*batch)
            feeder.eager = not self.stage.has_unsent
        if feeder.take_end() and feeder.failure is None:
            self.stage.source_ended()

    # ---- what is asked for

    def _send_parcel(self, action: act.SendParcel) -> None:
        if not self._sockets.send_parcel(action.session, action.header, action.body):
            self.stage.session_lost(action.session)

    def _publish(self, action: act.Publish) -> None:
        for arrival in self._sockets.publish(action.topic, action.frame):
            self._handle(arrival, time.monotonic())

    def _start_task(self, action: act.StartTask) -> None:
        assert self._workers is not None
        self._workers.put(action.task)

    def _open_session(self, action: act.OpenSession) -> None:
        self._log.debug(fields(event="session.opened", session=_mark(action.session), address=action.address))
        if not self._sockets.open_session(action.session, action.address, action.high_water_mark):
            self.stage.session_lost(action.session)

    def _close_session(self, action: act.CloseSession) -> None:
        self._log.debug(fields(event="session.closed", session=_mark(action.session)))
        self._sockets.close_session(action.session)

    def _to_save(self, action: act.Commit) -> Saved:
        finished = self.saved.finished + action.count
        position = self.saved.position if action.count == 0 else action.position
        return Saved(position, finished, (self.run_id() or self.stage.me.incarnation) if action.ended else "")

    def _set_gate(self, action: act.LimitOutputs) -> None:
        self._gate.set(action.limit > 0)
        if self._source_thread is not None:
            self._source_thread.raise_limit(action.limit)

    def _close_source(self, action: act.CloseSource) -> None:
        if self._source_thread is not None:
            self._source_thread.close()

    def _set_exit(self, action: act.Exit) -> None:
        self._exit = action


def _mark(session: bytes) -> str:
    """Enough of a session's name to tell it from others in the log; the whole of it is a secret of its two ends."""
    return session[:4].hex()


def _name(peer: tuple[str, int]) -> str:
    return f"{peer[0]}.{peer[1]}"
