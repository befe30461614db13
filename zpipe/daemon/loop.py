"""The loop: it polls until something is due, hands the core what came, and performs what the core asks for.

The order of a turn belongs here, and one row for each action. Must not live here: any decision about messages, and what a part
of the daemon does in its turn. A frame that breaks the protocol is counted, logged at a limited rate and dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from zpipe.core import actions as act
from zpipe.core.stage import Stage
from zpipe.core.wire import frames
from zpipe.daemon.mailbox import Mailbox
from zpipe.daemon.plugin.source_thread import SourceThread
from zpipe.daemon.service.health import Health
from zpipe.daemon.service.limited_log import LimitedLog
from zpipe.daemon.service.malformed_frame_log import MalformedFrameLog, Source
from zpipe.daemon.storage.dead_letter_store import DeadLetterStore
from zpipe.daemon.storage.position_writer import PositionWriter
from zpipe.daemon.workers.pool import Pool
from zpipe.errors import PeerError
from zpipe.runtime.logs import fields
from zpipe.transport.sockets import Arrival, Sockets, sender


class Part(Protocol):
    """What the loop drives besides the core."""

    def turn(self, now: float) -> float:
        """Does what is due. Returns when to call again although nothing happens. Does not block."""


class Loop:
    """The shell of one instance. `run` blocks until the core exits or `stop` is called.

    stopped      called once everything is finished and said (`True`: at the end of the stream)
    output_room  set while the outputs have room
    parts        each has its turn before every poll
    descriptors  what to call when one of these is readable
    """

    def __init__(
        self,
        stage: Stage,
        sockets: Sockets,
        mailbox: Mailbox,
        workers: Pool | None,
        source: SourceThread | None,
        output_room: threading.Event,
        position_writer: PositionWriter,
        dead_letters: DeadLetterStore,
        health: Health,
        stopped: Callable[[bool], None],
        parts: Sequence[Part],
        descriptors: Mapping[int, Callable[[], None]],
        log: logging.Logger,
    ) -> None:
        self.failed = False
        self._stage = stage
        self._sockets = sockets
        self._mailbox = mailbox
        self._workers = workers
        self._source = source
        self._output_room = output_room
        self._health = health
        self._parts = parts
        self._descriptors = descriptors
        self._log = log
        self._limited_log = LimitedLog(log)
        self._malformed = MalformedFrameLog(log)
        self._over = False
        self._exit: act.Exit | None = None
        self._perform: dict[type[Any], Callable[[Any], object]] = {
            act.SendParcel: self._send_parcel,
            act.StartTask: self._start_task,
            act.Tell: lambda a: sockets.tell(a.peer, a.frame),
            act.Reply: lambda a: sockets.reply(a.route, a.frame),
            act.Publish: self._publish,
            act.LogEvent: lambda a: self._limited_log.write(a, time.monotonic()),
            act.OpenSession: self._open_session,
            act.CloseSession: self._close_session,
            act.StoreDeadLetter: lambda a: dead_letters.store(a.letter),
            act.SendDeadLetter: lambda a: dead_letters.send(a.letter),
            act.TakeLetters: lambda a: dead_letters.read_marked(),
            act.RemoveLetter: lambda a: dead_letters.remove(a.number),
            act.Commit: position_writer.write,
            act.LimitOutputs: self._limit_outputs,
            act.CloseSource: self._close_source,
            act.Remember: lambda a: health.keep_paused(a.paused),
            act.Stop: lambda a: stopped(a.ended),
            act.Exit: self._set_exit,
        }

    def run(self) -> None:
        """Turns until the core is done."""
        for fd in self._descriptors:
            self._sockets.watch_fd(fd)
        while not self._over:
            self._turn()

    def stop(self, failed: bool) -> None:
        """Ends the loop after this turn, whatever the core holds: its upstream answers for it."""
        self._over = True
        self.failed = failed

    def _turn(self) -> None:
        """One turn. The only place that waits."""
        now = time.monotonic()
        # From here on other threads wake the poll: what they leave after a part has looked must not wait for its deadline.
        self._mailbox.asleep = True
        at = min(self._stage.next_timeout(), *[part.turn(now) for part in self._parts])
        for arrival in self._sockets.poll(0.0 if self._mailbox else at - time.monotonic()):
            self._mailbox.asleep = False
            self._take_in(arrival, time.monotonic())
        self._mailbox.asleep = False
        self._mailbox.run()
        now = time.monotonic()
        if self._source is not None:
            self._source.feed(now)
        for action in self._stage.turn(now):
            self._perform[type(action)](action)
        if self._exit is not None and (self._exit.failed or self._health.may_exit()):
            self.stop(self._exit.failed)

    # ---- what comes in

    def _take_in(self, arrival: Arrival, now: float) -> None:
        stage, multipart = self._stage, arrival.frames
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
                    self._descriptors[arrival.key]()
        except PeerError as error:
            stage.frame_malformed()
            self._malformed.note(self._origin(arrival, error), error, now)

    def _subscribed(self, arrival: Arrival) -> None:
        """Raises PeerError, and ends the connection, if it is no subscription to what is published. With the connection goes
        what libzmq keeps of it."""
        try:
            frames.check_subscription(b"".join(arrival.frames))
        except PeerError:
            self._sockets.disconnect(arrival)
            raise

    def _origin(self, arrival: Arrival, error: PeerError) -> Source:
        match arrival.what:
            case "parcel":
                return Source("inbox", error.peer, sender(arrival))
            case "feedback":
                return Source("feedback", self._stage.consumer_at(arrival.frames[0]), sender(arrival))
            case "control":
                return Source("control", sender=sender(arrival))
            case "upstream":
                return Source("upstream.feedback", _name(arrival.key))
            case _:
                return Source("upstream.control", _name(arrival.key))

    # ---- what is asked for

    def _send_parcel(self, action: act.SendParcel) -> None:
        if not self._sockets.send_parcel(action.session, action.header, action.body):
            self._stage.session_lost(action.session)

    def _publish(self, action: act.Publish) -> None:
        for arrival in self._sockets.publish(action.topic, action.frame):
            self._take_in(arrival, time.monotonic())

    def _start_task(self, action: act.StartTask) -> None:
        assert self._workers is not None
        self._workers.put(action.task)

    def _open_session(self, action: act.OpenSession) -> None:
        self._log.debug(fields(event="session.opened", session=_prefix(action.session), address=action.address))
        if not self._sockets.open_session(action.session, action.address, action.high_water_mark):
            self._stage.session_lost(action.session)

    def _close_session(self, action: act.CloseSession) -> None:
        self._log.debug(fields(event="session.closed", session=_prefix(action.session)))
        self._sockets.close_session(action.session)

    def _limit_outputs(self, action: act.LimitOutputs) -> None:
        if action.limit > 0:
            self._output_room.set()
        else:
            self._output_room.clear()
        if self._source is not None:
            self._source.raise_limit(action.limit)

    def _close_source(self, action: act.CloseSource) -> None:
        if self._source is not None:
            self._source.close()

    def _set_exit(self, action: act.Exit) -> None:
        self._exit = action


def _prefix(session: bytes) -> str:
    """Enough of a session's name to tell it from others in the log. The whole of it is a secret of its two ends."""
    return session[:4].hex()


def _name(peer: tuple[str, int]) -> str:
    return f"{peer[0]}.{peer[1]}"
