"""The loop: it polls until something is due, hands the core what came, and performs what the core asks for.

The order of a turn belongs here, and one row for each action. Must not live here: any decision about messages, and what a part
of the daemon does in its turn. A frame that breaks the protocol is counted, logged at a limited rate and dropped.

The loop runs on the main thread, or on the thread of a worker whose calls are quick, and goes from one to the other between two
turns, or while the worker is in a call (`loop_handover`). While it waits, the thread of a source may send a message in between.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from zpipe.core import actions as act
from zpipe.core import events
from zpipe.core.stage import Stage
from zpipe.core.wire import frames
from zpipe.core.work.task import Task
from zpipe.daemon.loop_handover import Handover
from zpipe.daemon.mailbox import Mailbox
from zpipe.daemon.plugin.source_thread import SourceThread
from zpipe.daemon.service import peer_limits
from zpipe.daemon.service.health import Health
from zpipe.daemon.service.limited_log import LimitedLog, MalformedFrameLog, Source
from zpipe.daemon.service.peer_limits import PeerLimits
from zpipe.daemon.service.refusals import Refusals
from zpipe.daemon.storage.dead_letter_store import DeadLetterStore
from zpipe.daemon.storage.position_writer import PositionWriter
from zpipe.daemon.workers.pool import Pool
from zpipe.errors import PeerError
from zpipe.runtime import file_descriptors
from zpipe.runtime.logs import fields
from zpipe.transport.arrival import Arrival, sender
from zpipe.transport.sockets import Sockets

PARTS_S = file_descriptors.LOOK_S
"""The parts have a turn after an event that concerns them, when one of them is due, and this often if the loop turns anyway."""
CALLS_S = 0.005
"""In one turn calls are made for so long, so that what waits at the sockets waits no longer. Tasks are cut to this size."""


class Part(Protocol):
    """What the loop drives besides the core."""

    def turn(self, now: float) -> float:
        """Does what is due. Returns when to call again although nothing happens. Does not block."""


class LinkShell(Part, Protocol):
    """What touches the world for a link that does not run over ZeroMQ. It answers by `LinkHeard` events, on the loop's thread."""

    def start(self) -> None:
        """Begins, before anything is asked of it. Does not block."""

    def perform(self, what: Any) -> None:
        """Does what its link asks for, or has a thread do it. Does not block."""

    def close(self) -> None:
        """Ends, after the loop. Blocks until what waits is done, if that does not take for ever."""


class Driver(Protocol):
    """A worker that can drive the loop, and then makes its calls by `make_call`."""

    @property
    def may_drive(self) -> bool:
        """It may be given the loop."""

    @property
    def quick(self) -> bool:
        """It should keep the loop: its calls are short."""

    @property
    def has_calls(self) -> bool:
        """Calls are to be made."""

    def drive(self, loop: Callable[[], None]) -> None:
        """From another thread: has the worker call `loop`. Does not block."""

    def make_call(self) -> bool:
        """On the worker's thread: makes the next call. False: the loop was lost meanwhile."""

    def call(self, task: Task) -> bool:
        """On the worker's thread, while it has no other calls: makes those of a task. False: the loop was lost meanwhile."""


NO_SHELLS: Mapping[str, LinkShell] = {}


class Loop:
    """The shell of one instance. `run` blocks until the core exits or `stop` is called.

    acked        called with ids of a source's messages that are finished
    stopped      called once when the instance has stopped (`True`: at the end of the stream)
    output_room  set while the outputs have room
    parts        each has a turn before the poll that follows anything but the usual frames and calls
    descriptors  what to call when one of these is readable
    link_shells  by the names that their links know them by; each is one of the parts, too
    driver       the worker that may drive the loop;  handover: who does
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
        acked: Callable[[list[str]], None],
        parts: Sequence[Part],
        descriptors: Mapping[int, Callable[[], None]],
        log: logging.Logger,
        limited_log: LimitedLog,
        refusals: Refusals,
        handover: Handover,
        driver: Driver | None = None,
        link_shells: Mapping[str, LinkShell] = NO_SHELLS,
    ) -> None:
        self.failed = False
        self._stage = stage
        self._sockets = sockets
        self._mailbox = mailbox
        self._workers = workers
        self._source = source
        self._output_room = output_room
        self._health = health
        self._parts = [*parts, *link_shells.values()]
        self._parts_at = self._parts_look_at = 0.0
        self._descriptors = descriptors
        self._log = log
        self._handover = handover
        self._driver = driver
        self._limited_log = limited_log
        self._refusals = refusals
        self._malformed = MalformedFrameLog(log)
        self._peer_limits = PeerLimits()
        self._turn_lock = threading.Lock() if source is not None else None
        self._over = False
        self._error: BaseException | None = None
        self._exit: act.Exit | None = None
        self._perform: dict[type[Any], Callable[[Any], object]] = {
            act.SendParcel: self._send_parcel,
            act.StartTask: lambda a: self._put(a.task),
            act.Tell: lambda a: sockets.tell(a.peer, a.frame),
            act.Reply: lambda a: sockets.reply(a.route, a.frame),
            act.LimitOutputs: self._limit_outputs,
            act.Ack: lambda a: acked(a.ids),
            act.Publish: self._publish,
            act.LogEvent: self._log_event,
            act.ToLink: lambda a: link_shells[a.shell].perform(a.what),
        }
        self._perform_for_parts: dict[type[Any], Callable[[Any], object]] = {
            act.OpenSession: self._open_session,
            act.CloseSession: self._close_session,
            act.StoreDeadLetter: lambda a: dead_letters.store(a.letter),
            act.SendDeadLetter: lambda a: dead_letters.send(a.letter),
            act.TakeLetters: lambda a: dead_letters.read_marked(),
            act.RemoveLetter: lambda a: dead_letters.remove(a.number),
            act.Commit: position_writer.write,
            act.CloseSource: self._close_source,
            act.Remember: lambda a: health.keep_paused(a.paused),
            act.Stop: lambda a: stopped(a.ended),
            act.Exit: self._set_exit,
        }

    def run(self) -> None:
        """Turns until the core is done. On the main thread; raises what a turn does, on whichever thread that was."""
        self._sockets.watch_fd(self._mailbox.wakeup.fd, each_write=True)
        for fd in self._descriptors:
            self._sockets.watch_fd(fd)
        if self._turn_lock is not None:
            self._turn_lock.acquire()  # from here on it is free only while the loop waits
        while not self._over:
            self._turn()
            if self._driver is not None and self._driver.may_drive and not self._over:
                self._handover.give()
                self._driver.drive(self._turn_on_worker)
                self._handover.watch()
                # A turn that was lost in a call has left work undone, which must not wait for the poll's deadline.
                self._mailbox.post(_nothing)
        if self._error is not None:
            raise self._error

    def stop(self, failed: bool) -> None:
        """Ends the loop after this turn, whatever the core holds: its upstream answers for it."""
        self._over = True
        self.failed = failed

    def _turn_on_worker(self) -> None:
        assert self._driver is not None
        drives = self._handover.end_call()
        try:
            while drives and self._driver.quick and not self._over:
                drives = self._turn()
        except BaseException as error:
            self._error = error
            self._over = True
        if drives:
            self._handover.give_back()

    def _turn(self) -> bool:
        """One turn. The only place that waits. False: the loop was lost in a call, and is another thread's."""
        now = time.monotonic()
        # From here on other threads wake the poll: what they post after a part has looked must not wait for the poll's deadline.
        self._mailbox.asleep = True
        at = min(self._stage.next_at(), self._turn_parts(now))
        if self._source is not None:
            at = min(at, self._source.turn(now))
        timeout_s = 0.0 if self._mailbox or self._has_calls else at - now
        for arrival in self._sockets.poll(timeout_s, self._turn_lock):
            self._mailbox.asleep = False
            self._take_in(arrival, time.monotonic())
        self._mailbox.asleep = False
        if self._error is not None:  # the source's thread has left its turn half done
            return True
        if self._mailbox.run():
            self._parts_look_at = 0.0
        now = time.monotonic()
        if self._source is not None:
            self._source.feed(now)
        if self._handover.worker_drives and not self._make_calls(now):
            return False
        now = time.monotonic()
        self._perform_all(self._stage.pass_on(now))
        self._perform_all(self._stage.tell(now))
        if self._exit is not None and (self._exit.failed or self._health.may_exit()):
            self.stop(self._exit.failed)
        return True

    def turn_for_source(self) -> None:
        """On the source's thread, after it has yielded a message. While the loop waits, and would only pass the message on, that
        is done here: to wake another thread for it takes half as long as all else here. Otherwise the loop is woken."""
        assert self._source is not None and self._turn_lock is not None
        if not self._turn_lock.acquire(blocking=False):
            self._mailbox.wake()
            return
        try:
            now = time.monotonic()
            if self._stage.only_passes_on(now):
                self._source.feed(now)
            if self._stage.only_passes_on(now):
                self._perform_all(self._stage.pass_on(now))
                self._source.note_sent()
            if not self._stage.only_passes_on(now):
                self._mailbox.wake()
        except BaseException as error:  # `run` raises it
            self._error = error
            self._over = True
            self._mailbox.wake()
        finally:
            self._turn_lock.release()

    def leave_to_parent(self) -> None:
        """In a child that a plugin has forked: a source sends nothing there, since the sockets are the parent's."""
        if self._turn_lock is not None:
            self._turn_lock.acquire(blocking=False)

    def _perform_all(self, actions: list[act.Action]) -> None:
        for action in actions:
            perform = self._perform.get(type(action))
            if perform is None:
                perform = self._perform_for_parts[type(action)]
                self._parts_look_at = 0.0
            perform(action)

    def _turn_parts(self, now: float) -> float:
        """Returns when one of them is due."""
        if now >= self._parts_look_at:
            self._parts_at = min([part.turn(now) for part in self._parts])
            self._parts_look_at = min(self._parts_at, now + PARTS_S)
        return self._parts_at

    @property
    def _has_calls(self) -> bool:
        """There are calls that this thread has to make."""
        return self._handover.worker_drives and self._driver is not None and self._driver.has_calls

    def _make_calls(self, now: float) -> bool:
        """Makes the calls that may be made now, between what came in and what goes out. So the outputs of a message that has just
        come leave in the same turn. While a call is made the core is as it is while a pool has the task: whoever drives meanwhile
        finds nothing half done. False: the loop was lost.
        """
        assert self._driver is not None
        until = now + CALLS_S
        while now < until:
            tasks = self._stage.start_tasks(now)
            if len(tasks) == 1 and not self._driver.has_calls:
                drives, posted = self._driver.call(tasks[0]), 0
            else:
                for task in tasks:
                    self._put(task)
                if not self._driver.has_calls:
                    break
                drives, posted = self._driver.make_call(), 1
            if not drives:
                return False
            if self._mailbox.run() > posted:  # more was posted than the call's result
                self._parts_look_at = 0.0
            elif not posted and self._stage.lacks_work:
                break
            now = time.monotonic()
        return True

    # ---- what comes in

    def _take_in(self, arrival: Arrival, now: float) -> None:
        stage, multipart = self._stage, arrival.frames
        if self._peer_limits.ended and self._peer_limits.is_ended(self._sockets.connection_of(arrival), now):
            return
        try:
            match arrival.what:
                case "parcel":
                    if len(multipart) != 2:
                        raise PeerError("not the two frames of a header and a body")
                    if not stage.handle(events.ParcelReceived(multipart[0], multipart[1]), now):
                        self._charge(arrival, peer_limits.PLAIN, now)
                case "feedback":
                    if len(multipart) != 2:
                        raise PeerError("not a single frame")
                    shown = self._sockets.shown_key(arrival)
                    event = events.FeedbackReceived(multipart[0], multipart[1], sender(arrival), shown)
                    if not stage.handle(event, now):
                        self._charge(arrival, peer_limits.PLAIN, now)
                case "control":
                    self._subscribed(arrival)
                case "upstream":
                    stage.handle(events.UpstreamReceived(arrival.key, multipart[0]), now)
                case "announcement":
                    frame = multipart[1] if len(multipart) == 2 else b""
                    stage.handle(events.UpstreamReceived(arrival.key, frame), now)
                case "up":
                    self._log.debug(fields(event="upstream.connected", upstream=_name(arrival.key)))
                    stage.handle(events.UpstreamConnected(arrival.key), now)
                case "down":
                    self._log.debug(fields(event="upstream.disconnected", upstream=_name(arrival.key)))
                    stage.handle(events.UpstreamDisconnected(arrival.key), now)
                case "ready":
                    stage.handle(events.SessionReady(arrival.key), now)
                case "lost":
                    stage.handle(events.SessionLost(arrival.key), now)
                case "refusal":
                    self._refusals.note(arrival.key, now)
                case "fd" if arrival.key in self._descriptors:  # else the mailbox's: its calls are made after the poll
                    self._descriptors[arrival.key]()
                    self._parts_look_at = 0.0
        except PeerError as error:
            stage.handle(events.FrameMalformed(), now)
            self._malformed.note(self._origin(arrival, error), error, now)
            self._charge(arrival, peer_limits.MALFORMED, now)

    def _charge(self, arrival: Arrival, cost: float, now: float) -> None:
        """Has a neighbour with a key pay for a useless frame (`peer_limits`). Over Unix sockets only this user's processes come,
        and without keys nobody is known."""
        host, key = self._sockets.shown_key(arrival)
        connection = self._sockets.connection_of(arrival) if key else -1
        if key and not self._peer_limits.charge(connection, host, cost, now):
            self._sockets.disconnect(arrival)
            self._refusals.note_flood(host or sender(arrival), now)

    def _subscribed(self, arrival: Arrival) -> None:
        """Raises PeerError, and ends the connection, if this is no subscription to what is published: libzmq forgets the
        subscriptions of a connection with it."""
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
                return Source("feedback", self._stage.peers.consumer_at(arrival.frames[0]), sender(arrival))
            case "control":
                return Source("control", sender=sender(arrival))
            case "upstream":
                return Source("upstream.feedback", _name(arrival.key))
            case _:
                return Source("upstream.control", _name(arrival.key))

    # ---- what is asked for

    def _send_parcel(self, action: act.SendParcel) -> None:
        if not self._sockets.send_parcel(action.session, action.header, action.body):
            self._session_lost(action.session)

    def _publish(self, action: act.Publish) -> None:
        for arrival in self._sockets.publish(action.topic, action.frame):
            self._take_in(arrival, time.monotonic())

    def _log_event(self, action: act.LogEvent) -> None:
        now = time.monotonic()
        self._limited_log.write(action, now)
        self._refusals.note_event(action, now)

    def _put(self, task: Task) -> None:
        assert self._workers is not None
        self._workers.put(task)

    def _open_session(self, action: act.OpenSession) -> None:
        self._log.debug(fields(event="session.opened", session=_prefix(action.session), address=action.address))
        if not self._sockets.open_session(action.session, action.address, action.high_water_mark, action.key):
            self._session_lost(action.session)

    def _session_lost(self, session: bytes) -> None:
        """A send has failed at the end of a turn. The next turn follows at once and does what follows from that."""
        self._stage.handle(events.SessionLost(session), time.monotonic())
        self._mailbox.post(_nothing)

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


def _nothing() -> None:
    """Posted to have another turn at once."""


def _prefix(session: bytes) -> str:
    """Enough of a session's name to tell it from others in the log. The whole of it is a secret of its two ends."""
    return session[:4].hex()


def _name(peer: tuple[str, int]) -> str:
    return f"{peer[0]}.{peer[1]}"
