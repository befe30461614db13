"""A stage: the core's parts put together. The shell hands it events, calls `turn`, and performs the actions that come back.

The entry point of each event belongs here, the order of what follows from it, and the moves of the lifecycle. Must not live here:
what a part can decide by itself. An event changes state; `turn` then does all that follows from it and collects the actions.

Nearly all turns of an idle pipeline only pass a message on. So a stage stays `_settled` through plain events (a parcel within the
credit, messages of a source, a task whose messages are completed or filtered): its turn starts tasks and sends parcels, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from typing import Any

from zpipe.core import actions as act
from zpipe.core import events as ev
from zpipe.core.downstream.downstream import Downstream
from zpipe.core.downstream.outgoing_link import OutgoingLink
from zpipe.core.downstream.outlet import Outlet
from zpipe.core.downstream.outlet_sessions import OutletSessions
from zpipe.core.downstream.output_limit import OutputLimit
from zpipe.core.faces import Letters, Peers
from zpipe.core.intervals import following
from zpipe.core.ledger import Counts, Derivation, EachDerivation
from zpipe.core.lifecycle import Lifecycle, Move, State
from zpipe.core.policy import StagePolicy
from zpipe.core.processing.held_messages import held_full, hook_left
from zpipe.core.processing.processing import Processing
from zpipe.core.shutdown import Shutdown
from zpipe.core.source_positions import SourcePositions
from zpipe.core.telemetry.stage_report import StageReport, StageStatus
from zpipe.core.telemetry.tap_publisher import TapPublisher, rate_asked_for
from zpipe.core.upstream.incoming_link import IncomingLink
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.upstream.upstreams import Identity, SuspectedCalls, Upstreams
from zpipe.core.wire import frames
from zpipe.core.work.task import DEAD, Task
from zpipe.errors import PeerError

NEVER = float("inf")
PLAIN, STRAY = object(), object()
"""Outcomes of events: nothing follows but tasks and parcels; a frame of nobody who is in session."""
LOOKS = frozenset({"snapshot", "tap"})
"""Requests that change nothing of what the instance does."""
COMMIT_S = 0.2
"""A source's position goes to disk this often at most: what a crash then repeats is 0.2 s of messages."""


class Stage:
    """One instance.

    inputs  (upstream stage, outlet) of each link into it;  links  (outlet, consumer stage) of each link out of it
    now     a monotonic clock's seconds;  jitter  gives numbers in [0, 1)
    random_bytes  gives so many bytes that nobody can guess
    process_figures  what only the shell knows of the process, for snapshots (pid, RSS, wall clock)
    suspects  the messages that may have killed the process before this one
    remote    upstream instances of other hosts, which reach the inbox by another address
    silent    (a head) its source is not read: nothing comes from it but its end, when the operator wants that
    outgoing, incoming  those of the links that do not run over ZeroMQ: the shell makes them, as it knows how to run them
    snapshot_at  when the next snapshot is due;  whole: the last turn has looked at everything

    The parts are public for tests alone. The shell uses the methods and properties of this class.
    """

    def __init__(
        self,
        me: Identity,
        inputs: Sequence[tuple[str, str]],
        links: Sequence[tuple[str, str]],
        policy: StagePolicy,
        now: float,
        random_bytes: Callable[[int], bytes],
        jitter: Callable[[], float] = lambda: 0.5,
        process_figures: Callable[[], dict[str, Any]] = dict,
        suspects: SuspectedCalls | None = None,
        silent: bool = False,
        remote: Container[tuple[str, int]] = (),
        outgoing: Sequence[OutgoingLink] = (),
        incoming: Sequence[IncomingLink] = (),
    ) -> None:
        self.me = me
        self.policy = policy
        self.counts = Counts()
        self.lifecycle = Lifecycle()
        self.inlet = Inlet(policy.queue, policy.link, self.counts, incoming)
        made = {(link.name, link.consumer): link for link in outgoing}
        self.downstream = Downstream([made.get(link) or Outlet(*link, policy.link) for link in links], policy)
        below = self.downstream.links
        self.sessions = OutletSessions(me.pipeline, me.stage, me.incarnation, below, policy, random_bytes)
        self.upstreams = Upstreams(me, random_bytes(frames.SECRET_BYTES), inputs, self.inlet, policy, suspects, remote)
        self.processing = Processing(policy, self.counts, self.inlet, self.downstream, jitter, now)
        self.source = SourcePositions(silent) if not inputs else None
        parts = self.counts, self.inlet, self.upstreams, self.downstream
        self.shutdown = Shutdown(self.lifecycle, self.source, *parts, policy.leaves_stored)
        self.tap = TapPublisher(me, policy.tap)
        self._actions: list[act.Action] = []
        self._settled = False
        self.whole = False
        self._due_at = now  # while it is settled
        self._now = self._heartbeat_at = self.snapshot_at = self._commit_at = now
        self._patience_s = policy.link.peer_timeout_s
        self._limit = OutputLimit(policy, self.source)
        self._announced: tuple[State, bool] | None = None
        self._snapshot_state: State | None = None
        held = self.counts, self.inlet, self.downstream, self.processing, self.source, self.upstreams
        self._report = StageReport(me, self.lifecycle, *held, now)
        self._process_figures = process_figures
        self._handlers = self._make_handlers()
        self.letters = Letters(self.lifecycle, self.shutdown, self.processing, replayable=self.source is None)
        self.peers = Peers(self.sessions, self.upstreams)

    # ---- what the shell may read

    @property
    def state(self) -> State:
        return self.lifecycle.state

    @property
    def over(self) -> bool:
        """It has stopped or failed, and takes nothing in any more."""
        return self.lifecycle.over

    @property
    def held_messages(self) -> int:
        """Messages that came in and are queued or in process."""
        return self.inlet.held_messages

    @property
    def has_unsent(self) -> bool:
        """Outputs wait for credit, so it is not worth making more of them at once."""
        return self.downstream.unsent > 0

    def status(self) -> StageStatus:
        """What it is doing, in a few figures."""
        return self._report.status(self.shutdown.leaving, self.shutdown.draining)

    # ---- events

    def handle(self, event: ev.Event, now: float) -> bool:
        """Takes the event in. What follows from it is drawn by `turn`. False: a frame of nobody who is in session. Raises
        PeerError for one that is not of the protocol."""
        if now - self._now > self._patience_s:
            self._wake(now)
        settled, self._settled = self._settled, False
        outcome = self._handlers[type(event)](event, now)
        if outcome is PLAIN:
            self._settled = settled
        return outcome is not STRAY

    def _make_handlers(self) -> dict[type[ev.Event], Callable[[Any, float], object]]:
        """What each event changes. `PLAIN` comes back if nothing follows from it but tasks and parcels."""
        lifecycle, processing, upstreams, sessions = self.lifecycle, self.processing, self.upstreams, self.sessions
        letters = processing.dead_letters
        return {
            ev.ParcelReceived: self._parcel_received,
            ev.FeedbackReceived: self._feedback_received,
            ev.UpstreamReceived: self._upstream_received,
            ev.FrameMalformed: self._frame_malformed,
            ev.UpstreamConnected: lambda e, now: upstreams.connected(e.peer, now),
            ev.UpstreamDisconnected: lambda e, now: upstreams.disconnected(e.peer),
            ev.UpstreamExpected: lambda e, now: upstreams.expected(e.peer),
            ev.UpstreamGone: lambda e, now: upstreams.gone(e.peer),
            ev.UpstreamLeft: lambda e, now: upstreams.left(e.peer),
            ev.DownstreamGone: lambda e, now: self.downstream.end_acked_before(e.stage),
            ev.SessionReady: lambda e, now: sessions.ready(e.session),
            ev.SessionLost: self._session_lost,
            ev.LinkHeard: self._link_heard,
            ev.Opened: lambda e, now: lifecycle.make(Move.OPENED),
            ev.Failed: lambda e, now: lifecycle.make(Move.FAIL),
            ev.CallFinished: self._call_finished,
            ev.OutputsEmitted: lambda e, now: processing.emitted(e.task, e.chunks),
            ev.SourceYielded: self._source_yielded,
            ev.SourceEnded: self._source_ended,
            ev.PositionStored: self._position_stored,
            ev.LetterWritten: lambda e, now: letters.written(e.letter, e.stored, now),
            ev.LetterPosted: lambda e, now: letters.posted(e.letter, e.body),
            ev.LettersCounted: lambda e, now: processing.breaker.stored(e.messages, e.bytes_),
            ev.LetterRemoved: lambda e, now: processing.replays.removed(e.number),
            ev.LettersRevived: lambda e, now: processing.replay(e.letters, now),
            ev.OrderGiven: lambda e, now: self._obey(e.what, now),
            ev.LimitChanged: lambda e, now: processing.set_limit(e.limit, now),
            ev.IntervalChanged: self._interval_changed,
            ev.TimePassed: lambda e, now: None,
        }

    def _parcel_received(self, event: ev.ParcelReceived, now: float) -> object:
        frame = frames.read(event.header)
        known = self.upstreams.parcel(frame, event.body, now)
        if now < self.tap.until:
            self._actions += self.tap.entered(self.inlet, frame, event.body, now)
        if not known:
            return STRAY
        return PLAIN if type(frame) is frames.Parcel and frame.sections else None

    def _feedback_received(self, event: ev.FeedbackReceived, now: float) -> object:
        frame, route, sender = frames.read(event.frame), event.route, event.sender
        plain = False
        match frame:
            case frames.Hello():
                self._actions += self.sessions.hello(route, frame, now, sender, event.shown)
            case frames.Statement():
                self._actions += (answer := self.sessions.statement(route, frame, now, sender))
                # From credit and acks only parcels follow, and in a head a source's position to commit.
                plain = self.source is None and not (answer or frame.returned or frame.leaving)
            case frames.Refuse():
                self._actions += self.sessions.refused(route, frame, sender)
            case frames.Request():
                self._requested(route, frame, now, sender)
            case _:
                raise PeerError(f"a {frame.kind} on the feedback socket", frame.kind)
        self.downstream.recount()
        if event.shown.key and not self.sessions.consumer_at(route):
            return STRAY
        return PLAIN if plain else None

    def _requested(self, route: bytes, request: frames.Request, now: float, sender: str) -> None:
        """Answers it, and logs who asked. Only what changes the instance is a warning: monitors and taps ask every second."""
        refused = self._obey(request.what, now)
        what, state, number = request.what.partition(":")[0][:80], self.state.value, request.number
        said = frames.Done(number, state) if refused is None else frames.Refuse(b"", refused, number)
        fields = {"what": what, "sender": sender, "state": state, "refused": refused}
        order = what not in LOOKS
        event = act.LogEvent("operator.request", fields, warning=order, repeats=order and refused is None)
        self._actions += [act.Reply(route, frames.write(said)), event]

    def _obey(self, what: str, now: float) -> str | None:
        """Does what is asked, or says why not. Every request describes a state, so asking twice changes nothing: an operator
        whose answer was lost asks again."""
        match what:
            case "drain" if self.source is None:
                return "a drain begins at a head stage"
            case "drain":
                self.shutdown.drain()
            case "leave-buffers":
                self.shutdown.leave_stored()
            case "leave":
                self.shutdown.leave()
                self.inlet.leave(now)
            case "pause" | "resume":
                self.processing.pause(what == "pause")
                self._actions.append(act.Remember(what == "pause"))
            case "replay" if self.source is not None:
                return "a source's records come from what it reads, and cannot be replayed"
            case "replay":
                self._actions.append(act.TakeLetters())
            case "snapshot":
                self.snapshot_at = now
            case _:
                if (rate := rate_asked_for(what)) is not None:
                    self.tap.ask(rate, now)
                elif not self.upstreams.gone_by_word(what):
                    return f"no such request: {what}"[:200]
        return None

    def _upstream_received(self, event: ev.UpstreamReceived, now: float) -> None:
        self._actions += self.upstreams.heard(event.peer, frames.read(event.frame), now)

    def _frame_malformed(self, event: ev.FrameMalformed, now: float) -> object:
        self.counts.malformed += 1
        return PLAIN

    def _session_lost(self, event: ev.SessionLost, now: float) -> None:
        self._actions += self.sessions.close(event.session)
        self.downstream.recount()

    def _link_heard(self, event: ev.LinkHeard, now: float) -> None:
        self._actions += event.link.heard(event.what, now)
        self.upstreams.link_heard()
        self.inlet.take_arrivals(now)
        self.downstream.recount()

    def _call_finished(self, event: ev.CallFinished, now: float) -> object:
        task, leaving = event.task, self.shutdown.leaving
        plain = self.processing.done(task, event.result, now, leaving)
        if task.hook:
            self._actions += hook_left(task.hook, event.result, len(self.processing.held), leaving)
        return PLAIN if plain and not self.downstream.near_bound else None

    def _source_yielded(self, event: ev.SourceYielded, now: float) -> object:
        assert self.source is not None
        position, count, letters, ids = event.position, event.count, event.letters, event.ids
        each = EachDerivation([self.source.emit_singly(position, ids)]) if ids is not None else None
        derivation = each or Derivation([self.source.emit(position, count)])
        self.counts.receive(in_process=count)
        self.counts.finish(completed=count - len(letters))
        unrouted = self.downstream.offer(event.chunks, derivation)
        self.counts.unrouted += unrouted
        self.processing.breaker.succeeded(count - len(letters))
        for letter in letters:
            derivation.expect(1, letter.owners)
            letter.derivation = derivation
            self.processing.dead_letters.add(letter)
        if each is not None:
            each.close_but(())
        else:
            derivation.close()
        return None if unrouted or letters or self.downstream.near_bound or self._limit.low else PLAIN

    def _source_ended(self, event: ev.SourceEnded, now: float) -> None:
        assert self.source is not None
        self.source.end(exhausted=not self.shutdown.closing)

    def _position_stored(self, event: ev.PositionStored, now: float) -> None:
        assert self.source is not None
        self.source.stored(event.count, event.ended)

    def _interval_changed(self, event: ev.IntervalChanged, now: float) -> None:
        self.policy = replace(self.policy, interval_s=event.seconds)
        self.snapshot_at = min(self.snapshot_at, following(now, event.seconds))

    # ---- time

    def _wake(self, now: float) -> None:
        """If this process stood still (a stop signal, a frozen machine) for longer than peers wait, nothing it knows of
        them holds. Must come before any event is looked at."""
        before, self._now = self._now, now if now > self._now else self._now
        if now - before > self._patience_s:
            self._settled = False
            self.upstreams.slept(now)
            self.sessions.slept(now)

    def next_at(self) -> float:
        """When `turn` should be called although nothing happens."""
        return self._due_at if self._settled else self._next_at()

    def _next_at(self) -> float:
        if self.shutdown.exited:
            return NEVER
        at = min(
            self._heartbeat_at,
            self.snapshot_at,
            self.shutdown.next_at(self._now),
            self.inlet.next_statement_at(),
            self.processing.next_at(self._now, self._flush),
        )
        if self.downstream.waiting:
            at = min(at, self.downstream.next_at())
        if self.lifecycle.accepts_input:
            at = min(at, self.upstreams.next_at())
            if self.processing.hook_timer is not None:
                at = min(at, self.processing.next_hook_at(self._now))
        return min(at, self._commit_at) if self.source is not None and self.source.behind else at

    def only_passes_on(self, now: float) -> bool:
        """`pass_on` would send parcels, and do no more than that."""
        return self._settled and now < self._due_at

    @property
    def lacks_work(self) -> bool:
        """Nothing waits for a worker, and nothing has happened from which work might follow."""
        return self._settled and not self.inlet.queue

    def start_tasks(self, now: float) -> list[Task]:
        """What the plugin is to be called for now. A shell that makes calls itself does so before `turn`, which then sends what
        came of them."""
        self._wake(now)
        return [] if self.lacks_work else self._start_tasks(now)

    def _start_tasks(self, now: float) -> list[Task]:
        if self.shutdown.leaving:
            if self.inlet.queue:
                self.inlet.hand_back(now)
            self.processing.hand_back_held(now)
        if not self.lifecycle.accepts_input:
            return []
        hooks = self._call_hooks(now) if self.processing.hook_timer is not None else []
        started = self.processing.start(now, self._flush)
        self._settled = self._settled and not self.processing.dead_letters  # `start` may have given messages up
        return hooks + started if hooks else started

    def _call_hooks(self, now: float) -> list[Task]:
        ending = self.shutdown.leaving or self.shutdown.input_ended()
        return self.processing.call_hooks(now, ending, self.shutdown.leaving)

    def turn(self, now: float) -> list[act.Action]:
        """All that follows from the events since the last call, and from the time. Returns the actions, in order."""
        return [*self.pass_on(now), *self.tell(now)]

    def pass_on(self, now: float) -> list[act.Action]:
        """The first half of a turn: tasks and parcels. Its actions are performed before `tell` is called, so that no message
        waits for what neighbours and people are told."""
        self._wake(now)
        if not self.lacks_work and (tasks := self._start_tasks(now)):
            self._actions += map(act.StartTask, tasks)
        self.whole = not self.only_passes_on(now)
        if self.whole:
            self._settled = True
            self._work(now)
        if self.downstream.waiting:
            self._actions += (sent := self.downstream.dispatch(now))
            if now < self.tap.until:
                self._actions += self.tap.left(self.sessions, sent, now)
            if self.downstream.unsent:
                self._actions += self.sessions.need_confirms()
                self._settled = False
        if self.whole:  # sending has made room, and maybe no other event comes that would have the source told of it
            self._actions += self._limit.update(self.downstream, self.processing.may_read)
        actions, self._actions = self._actions, []
        return actions

    def tell(self, now: float) -> list[act.Action]:
        """The second half of a turn: what neighbours and people are told."""
        self.inlet.note_changes(now)
        if self._settled and not self.whole and not self.inlet.pressing:
            self._due_at = min(self._due_at, self.inlet.next_statement_at())
            return []
        self.whole = True
        self.processing.size_window()
        if now >= self.snapshot_at:
            self.inlet.state_changes(now)
        self._actions += [act.Tell(to.peer, frames.write(statement)) for to, statement in self.inlet.statements(now)]
        self._actions += self.inlet.tell_links(now)
        self._publish(now)
        self.processing.note_idle(now, self._limit.left, self.upstreams.awaits_acks)
        self._settled = self._settled and self._is_quiet
        if self._settled:
            self._due_at = self._next_at()
        actions, self._actions = self._actions, []
        return actions

    @property
    def _is_quiet(self) -> bool:
        """Plain events alone will lead to nothing but tasks and parcels."""
        if self.downstream.unsent or self.downstream.near_bound or self._announced != (State.RUNNING, False):
            return False
        ends = self.shutdown.draining or self.shutdown.leaving or self.upstreams.awaits_acks
        return not ends and not self._limit.low and self.processing.is_plain

    def _work(self, now: float) -> None:
        """What follows from anything but plain events."""
        if letters := self.processing.dead_letters.take(now):
            self._actions += map(act.SendDeadLetter if self.downstream.reads(DEAD) else act.StoreDeadLetter, letters)
        self._actions += map(act.RemoveLetter, self.processing.replays.take_done())
        if self.source is not None:
            self._commit(self.source, now)
        self._actions += self.shutdown.advance(now, self._patience_s, self.processing.owes_flush)
        if self.upstreams.next_at() <= now and self.lifecycle.accepts_input:
            self._actions += self.upstreams.hellos(now)
        if now >= self._heartbeat_at:
            self._heartbeat_at = following(now, self.policy.link.heartbeat_s)
            self.upstreams.heartbeat(now)
            self._actions += self.sessions.heartbeat(now)
            self.downstream.recount()
            self._announced = None
            if self.processing.held_fill_queue:
                self._actions.append(held_full(len(self.processing.held)))

    def _commit(self, source: SourcePositions, now: float) -> None:
        if source.acked:
            self._actions.append(act.Ack(source.take_acked()))
        source.advance()
        if source.behind and (now >= self._commit_at or source.ended):
            self._commit_at = now + COMMIT_S
            position, count = source.ask()
            self._actions.append(act.Commit(position, count, ended=False))
        if self.state is State.FLUSHED and source.ask_completion():
            self._actions.append(act.Commit(source.committed, source.finished, ended=True))

    @property
    def _flush(self) -> bool:
        """A partial batch should not wait: nothing more comes, or can come before it is done."""
        if self.policy.batch is None:
            return False
        nothing_comes = self.inlet.out_of_credit and self.counts.in_process == len(self.processing.held)
        return nothing_comes or self.upstreams.awaits_acks or self.shutdown.leaving or self.shutdown.input_ended()

    # ---- what it says of itself

    def _publish(self, now: float) -> None:
        state = self.lifecycle.state
        if self._snapshot_state is not state:
            self._snapshot_state, self.snapshot_at = state, min(self.snapshot_at, now)
        awaits_acks = self.shutdown.awaits_acks() or (self.processing.halted and not self.downstream.unsent)
        if self._announced != (state, awaits_acks):
            self._announced = (state, awaits_acks)
            self._actions.append(act.Publish(frames.ANNOUNCEMENT_TOPIC, frames.write(self._announcement(awaits_acks))))
        if now >= self.snapshot_at:
            self.snapshot_at = following(now, self.policy.interval_s)
            self._actions.append(act.Publish(frames.SNAPSHOT_TOPIC, frames.write(frames.Snapshot(self.snapshot(now)))))

    def _announcement(self, awaits_acks: bool) -> frames.Announcement:
        ended = self.state is State.STOPPED and not self.shutdown.leaving
        return frames.Announcement(*self.me[:4], self.state.value, awaits_acks, ended)

    def snapshot(self, now: float) -> dict[str, Any]:
        """The counts of this moment, with rates, budget and latencies since the snapshot before."""
        return self._process_figures() | self._report.take(now, self.policy.interval_s / 2)
