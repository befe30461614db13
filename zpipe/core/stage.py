"""A stage: the core's parts put together. The shell hands it events, calls `turn`, and performs the actions that come back.

The entry point of each event belongs here, the order of what follows from it, and the moves of the lifecycle. Must not live here:
what a part can decide by itself. An event changes state; `turn` then does all that follows from it and collects the actions.

Nearly all turns of an idle pipeline only pass a message on. So a stage stays `_settled` through plain events (a parcel within the
credit, messages of a source, a task whose messages are completed or filtered): its turn starts tasks and sends parcels, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from typing import Any

from zpipe.core import actions as act
from zpipe.core.downstream.downstream import Downstream
from zpipe.core.downstream.outgoing_link import OutgoingLink
from zpipe.core.downstream.outlet import Outlet
from zpipe.core.downstream.outlet_sessions import NO_KEY, OutletSessions
from zpipe.core.downstream.output_limit import OutputLimit
from zpipe.core.intervals import following
from zpipe.core.ledger import Counts, Derivation, EachDerivation
from zpipe.core.lifecycle import Lifecycle, Move, State
from zpipe.core.policy import LimitPolicy, StagePolicy
from zpipe.core.processing.held_messages import held_full, hook_left
from zpipe.core.processing.processing import Processing
from zpipe.core.processing.replays import Revived
from zpipe.core.shutdown import Shutdown
from zpipe.core.source_positions import SourcePositions
from zpipe.core.telemetry.stage_report import StageReport, StageStatus
from zpipe.core.telemetry.tap_publisher import TapPublisher, rate_asked_for
from zpipe.core.upstream.incoming_link import IncomingLink
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.upstream.upstreams import Identity, SuspectedCalls, Upstreams
from zpipe.core.wire import frames
from zpipe.core.wire.cbor import Encoded
from zpipe.core.wire.peer_address import ShownKey
from zpipe.core.work.task import DEAD, Chunk, DeadLetter, Result, Task
from zpipe.errors import PeerError

NEVER = float("inf")
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

    # ---- what the shell may read

    @property
    def state(self) -> State:
        return self.lifecycle.state

    @property
    def over(self) -> bool:
        """It has stopped or failed, and takes nothing in any more."""
        return self.lifecycle.over

    @property
    def head(self) -> bool:
        """It has a source, and no stage above it."""
        return self.source is not None

    @property
    def held_messages(self) -> int:
        """Messages that came in and are queued or in process."""
        return self.inlet.held_messages

    @property
    def has_unsent(self) -> bool:
        """Outputs wait for credit, so it is not worth making more of them at once."""
        return self.downstream.unsent > 0

    @property
    def dead_letters_stored(self) -> int:
        """Dead letters that are stored, by the last count of the store."""
        return self.processing.breaker.stored_messages

    @property
    def stopped_by(self) -> str:
        """Why no more work is taken, and what to do about it; "" while it is."""
        return self.processing.breaker.stopped_by

    @property
    def replays(self) -> frozenset[int]:
        """Numbers of the dead letters that were taken for replay and are not gone from the store."""
        return frozenset(self.processing.replays)

    @property
    def replay_room(self) -> tuple[int, int]:
        """How many more dead letters may be taken for replay now, and bytes of them."""
        return self.processing.replays.room

    def status(self) -> StageStatus:
        """What it is doing, in a few figures."""
        return self._report.status(self.shutdown.leaving, self.shutdown.draining)

    # ---- events: neighbours

    def feedback_received(
        self, route: bytes, encoded: bytes, now: float, sender: str, shown: ShownKey = NO_KEY
    ) -> None:
        """A frame on the feedback ROUTER, by the connection `route`. Raises PeerError for one that is not of the protocol.
        `sender`: who sent it, of a tcp peer exactly its host; `shown`: what the sender has proved by a key."""
        self._wake(now)
        settled, self._settled = self._settled, False
        frame = frames.read(encoded)
        match frame:
            case frames.Hello():
                self._actions += self.sessions.hello(route, frame, now, sender, shown)
            case frames.Statement():
                self._actions += (answer := self.sessions.statement(route, frame, now, sender))
                # From credit and acks only parcels follow, and in a head a source's position to commit.
                self._settled = settled and self.source is None and not (answer or frame.returned or frame.leaving)
            case frames.Refuse():
                self._actions += self.sessions.refused(route, frame, sender)
            case frames.Request():
                self._request(route, frame, now, sender)
            case _:
                raise PeerError(f"a {frame.kind} on the feedback socket", frame.kind)
        self.downstream.recount()

    def consumer_at(self, route: bytes) -> str:
        """The instance that is in session by that route of the feedback socket; "" if none is."""
        return self.sessions.consumer_at(route)

    def _request(self, route: bytes, request: frames.Request, now: float, sender: str) -> None:
        """Answers it, and logs who asked. Only what changes the instance is a warning: monitors and taps ask every second."""
        refused = self._meet(request.what, now)
        what, state, number = request.what.partition(":")[0][:80], self.state.value, request.number
        said = frames.Done(number, state) if refused is None else frames.Refuse(b"", refused, number)
        fields = {"what": what, "sender": sender, "state": state, "refused": refused}
        order = what not in LOOKS
        event = act.LogEvent("operator.request", fields, warning=order, repeats=order and refused is None)
        self._actions += [act.Reply(route, frames.write(said)), event]

    def _meet(self, what: str, now: float) -> str | None:
        """Does what is asked, or says why not. Every request describes a state, so asking twice changes nothing: an operator
        whose answer was lost asks again."""
        match what:
            case "drain" if self.upstreams.head:
                self.drain()
            case "drain":
                return "a drain begins at a head stage"
            case "leave-buffers":
                self.shutdown.leave_stored()
            case "leave":
                self.leave(now)
            case "pause" | "resume":
                self.pause(what == "pause")
            case "replay" if self.upstreams.head:
                return "a source's records come from what it reads, and cannot be replayed"
            case "replay":
                self._actions.append(act.TakeLetters())
            case "snapshot":
                self.snapshot_now(now)
            case _ if self.upstreams.gone_by_word(what):
                pass
            case _ if (rate := rate_asked_for(what)) is not None:
                self.tap.ask(rate, now)
            case _:
                return f"no such request: {what}"[:200]
        return None

    def upstream_received(self, peer: tuple[str, int], encoded: bytes, now: float) -> None:
        """A frame from the feedback or control of the upstream instance (stage, instance). Raises PeerError."""
        self._wake(now)
        self._settled = False
        self._actions += self.upstreams.heard(peer, frames.read(encoded), now)

    def parcel_received(self, header: bytes, body: Encoded, now: float) -> bool:
        """A parcel in the inbox. False: it is of no open session. Raises PeerError."""
        self._wake(now)
        settled, self._settled = self._settled, False
        frame = frames.read(header)
        known = self.upstreams.parcel(frame, body, now)
        if now < self.tap.until:
            self._actions += self.tap.entered(self.inlet, frame, body, now)
        self._settled = settled and type(frame) is frames.Parcel and bool(frame.sections)
        return known

    def upstream_connected(self, peer: tuple[str, int], now: float) -> None:
        self._settled = False
        self.upstreams.connected(peer, now)

    def upstream_disconnected(self, peer: tuple[str, int]) -> None:
        self._settled = False
        self.upstreams.disconnected(peer)

    def upstream_expected(self, peer: tuple[str, int]) -> None:
        """The instance belongs to this run, whether or not it is there yet: the input does not end before it says its end."""
        self._settled = False
        self.upstreams.expected(peer)

    def upstream_gone(self, peer: tuple[str, int]) -> None:
        """The instance stopped at the end of its stream before this incarnation started."""
        self._settled = False
        self.upstreams.gone(peer)

    def upstream_left(self, peer: tuple[str, int]) -> None:
        """The instance left as it was told, maybe before this incarnation started, and its siblings go on."""
        self._settled = False
        self.upstreams.left(peer)

    def downstream_gone(self, stage: str) -> None:
        """A mark on disk says that an instance of that stage stopped at the end of this run's stream: it was told."""
        self._settled = False
        self.downstream.end_acked_before(stage)

    def session_ready(self, session: bytes) -> None:
        self._settled = False
        self.sessions.ready(session)

    def session_lost(self, session: bytes) -> None:
        """Disconnected, or a send would have blocked."""
        self._settled = False
        self._actions += self.sessions.close(session)
        self.downstream.recount()

    def link_heard(self, heard: Callable[[], Iterable[act.Action]], now: float) -> None:
        """The shell of a link that does not run over ZeroMQ has news for its link: `heard` calls the link's method for it."""
        self._wake(now)
        self._settled = False
        self._actions += heard()
        self.upstreams.link_heard()
        self.inlet.take_arrivals(now)
        self.downstream.recount()

    def frame_malformed(self) -> None:
        """A frame broke the protocol and was dropped."""
        self.counts.malformed += 1

    # ---- events: the plugin

    def opened(self) -> None:
        """The plugin is open and the sockets are bound."""
        self._settled = False
        self.lifecycle.make(Move.OPENED)

    def failed(self) -> None:
        self._settled = False
        self.lifecycle.make(Move.FAIL)

    def task_done(self, task: Task, result: Result, now: float) -> None:
        plain = self.processing.done(task, result, now, self.shutdown.leaving)
        self._settled = self._settled and plain and not self.downstream.near_bound
        if task.hook:
            self._actions += hook_left(task.hook, result, len(self.processing.held), self.shutdown.leaving)

    def task_emitted(self, task: Task, chunks: list[Chunk]) -> None:
        """Outputs of a task that is still under way."""
        self._settled = False
        self.processing.emitted(task, chunks)

    def source_emitted(
        self, chunks: list[Chunk], position: Any, count: int, letters: list[DeadLetter], ids: list[str] | None = None
    ) -> None:
        """`count` messages up to `position`: those in `chunks`, and records that could not be read, in `letters`. With `ids` each
        of them is told by its id when it is finished; then `chunks` and `letters` say whose they are."""
        assert self.source is not None
        each = EachDerivation([self.source.emit_singly(position, ids)]) if ids is not None else None
        derivation = each or Derivation([self.source.emit(position, count)])
        self.counts.receive(in_process=count)
        self.counts.finish(completed=count - len(letters))
        unrouted = self.downstream.offer(chunks, derivation)
        self.counts.unrouted += unrouted
        plain = not (unrouted or letters or self.downstream.near_bound or self._limit.low)
        self._settled = self._settled and plain
        self.processing.breaker.succeeded(count - len(letters))
        for letter in letters:
            derivation.expect(1, letter.owners)
            letter.derivation = derivation
            self.processing.dead_letters.add(letter)
        if each is not None:
            each.close_but(())
        else:
            derivation.close()

    def letter_written(self, letter: DeadLetter, stored: bool, now: float) -> None:
        """The dead letter is durable, or could not be written."""
        self._settled = False
        self.processing.dead_letters.written(letter, stored, now)

    def letter_posted(self, letter: DeadLetter, body: bytes) -> None:
        """The dead letter leaves as a message: `body` is a section with that message alone."""
        self._settled = False
        self.processing.dead_letters.posted(letter, body)

    def letters_stored(self, messages: int, bytes_: int) -> None:
        """So many dead letters are in the store now."""
        self._settled = False
        self.processing.breaker.stored(messages, bytes_)

    def letter_removed(self, number: int) -> None:
        """The row of a replayed dead letter is gone, durably."""
        self._settled = False
        self.processing.replays.removed(number)

    def replay(self, letters: list[Revived], now: float) -> None:
        """Dead letters are messages again. Must not be called with more than `replay_room`."""
        self._settled = False
        self.processing.replay(letters, now)

    @property
    def takes_letters(self) -> bool:
        """Dead letters may be replayed now: the instance works, and is not on its way to its end."""
        running = self.state is State.RUNNING and self.source is None
        return running and not (self.shutdown.leaving or self.processing.paused or self.processing.replays.full)

    def source_ended(self) -> None:
        """The iterator is exhausted, or closed at the core's wish."""
        self._settled = False
        assert self.source is not None
        self.source.end(exhausted=not self.shutdown.closing)

    def committed(self, count: int, ended: bool) -> None:
        """A position is durable that covers `count` messages; `ended`: that the source ran to its end is, too."""
        self._settled = False
        assert self.source is not None
        self.source.stored(count, ended)

    # ---- events: the operator

    def drain(self) -> None:
        """The end of the stream: a head closes its source; the others follow by what they hear from above."""
        self._settled = False
        self.shutdown.drain()

    def leave(self, now: float) -> None:
        """This instance alone is to go: grant nothing, hand back what is not started, finish the rest."""
        self._settled = False
        self.shutdown.leave()
        self.inlet.leave(now)

    def set_limit(self, limit: LimitPolicy | None, now: float) -> None:
        """Another limit on the calls of the plugin from now on."""
        self._settled = False
        self.processing.set_limit(limit, now)

    def set_interval(self, seconds: float) -> None:
        """Snapshots are published this often from now on."""
        self._settled = False
        self.policy = replace(self.policy, interval_s=seconds)
        self.snapshot_at = min(self.snapshot_at, following(self._now, seconds))

    def pause(self, paused: bool) -> None:
        """Starts no work (a head: takes nothing from its source) until told otherwise; what is started goes on."""
        self._settled = False
        self.processing.pause(paused)
        self._actions.append(act.Remember(paused))

    def snapshot_now(self, now: float) -> None:
        """Publishes a snapshot at the end of this turn."""
        self._settled = False
        self.snapshot_at = now

    # ---- time

    def _wake(self, now: float) -> None:
        """If this process stood still (a stop signal, a frozen machine) for longer than peers wait, nothing it knows of
        them holds. Must come before any event is looked at."""
        before, self._now = self._now, now if now > self._now else self._now
        if now - before > self._patience_s:
            self._settled = False
            self.upstreams.slept(now)
            self.sessions.slept(now)

    def next_timeout(self) -> float:
        """When `turn` should be called although nothing happens."""
        return self._due_at if self._settled else self._next_timeout()

    def _next_timeout(self) -> float:
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
            self._due_at = self._next_timeout()
        actions, self._actions = self._actions, []
        return actions

    def turn_anew(self, now: float) -> list[act.Action]:
        """A turn that looks at everything, for tests: what it finds has been missed by the one before."""
        self._settled = False
        return self.turn(now)

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
