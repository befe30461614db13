"""Everything below this stage: its outlets, the sessions of all of them, and answering what consumers say.

May live here: matching a hello to an outlet, liveness of consumers, and the bound on what is held for them. Choosing a
consumer and keeping sections is the outlet's; whether the config allows a consumer is `admission`'s.

A session belongs to the connection (`route`) by which its consumer came. Whoever else speaks of it is refused in the same words
as somebody who names a session that does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zpipe.core.actions import Action, CloseSession, LogEvent, OpenSession, Reply, SendParcel
from zpipe.core.downstream import admission
from zpipe.core.downstream.outlet import Outlet
from zpipe.core.downstream.outlet_session import OutletSession
from zpipe.core.ledger import Derivation
from zpipe.core.policy import ConsumerPolicy, StagePolicy
from zpipe.core.wire import frames
from zpipe.core.wire.peer_address import ShownKey
from zpipe.core.work.task import Chunk

NEVER = float("inf")
NO_KEY = ShownKey()
HIGH_WATER_SLACK = 64
"""Above the credit, for ends and for parcels that cross a lowered limit: the high-water mark is the fuse, not the bound."""


class Downstream:
    """`links` are (outlet, consumer stage), in the order of the config.

    random_bytes  so many bytes that nobody can guess, from the shell: sessions are named by them
    room          how many more messages may be produced now, by the link with the least room;  full: none
    unsent        messages that wait to be sent, on all links
    near_bound    half of what may be unacked is reached on some link: from there on `awaits_acks` may change
    """

    def __init__(
        self,
        pipeline: str,
        stage: str,
        incarnation: str,
        links: Sequence[tuple[str, str]],
        policy: StagePolicy,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.outlets = [Outlet(name, consumer, policy.link) for name, consumer in links]
        self._pipeline = pipeline
        self._stage = stage
        self._incarnation = incarnation
        self._policy = policy
        self._by_name: dict[str, list[Outlet]] = {}
        for outlet in self.outlets:
            self._by_name.setdefault(outlet.name, []).append(outlet)
        self._sessions: dict[bytes, tuple[Outlet, OutletSession]] = {}
        self._random_bytes = random_bytes
        self._awaits_acks = False
        self._count()

    # ---- outputs

    def offer(self, chunks: list[Chunk], derivation: Derivation) -> int:
        """Answers for outputs from now on, once for each link they leave by. Returns how many no stage reads."""
        unrouted = 0
        for chunk in chunks:
            outlets = self._by_name.get(chunk.outlet)
            if outlets is None:
                unrouted += chunk.messages
                continue
            for outlet in outlets:
                outlet.offer(chunk, derivation)
        self._count()
        return unrouted

    def reads(self, outlet: str) -> bool:
        """Whether some stage reads it."""
        return outlet in self._by_name

    def awaits_acks(self) -> bool:
        """Nothing more can be sent until something is acked: consumers should not wait for more to come. That is so from when
        the bound is reached until half of it is free: under full load it is reached again with every ack, and to say so each
        time would wake all consumers."""
        bound, part = self._policy.unacked, 2 if self._awaits_acks else 1
        self._awaits_acks = any(
            o.held_messages * part >= bound.messages or o.held_bytes * part >= bound.bytes for o in self.outlets
        )
        return self._awaits_acks

    def _count(self) -> None:
        """What is asked several times a turn is counted once after each change of what the outlets hold."""
        link, unacked = self._policy.link, self._policy.unacked
        room, unsent, near_bound = unacked.messages, 0, False
        for outlet in self.outlets:
            held, held_bytes = outlet.held_messages, outlet.held_bytes
            room = min(room, unacked.messages - held, link.unsent_messages - outlet.unsent_messages)
            if held_bytes >= unacked.bytes or outlet.unsent_bytes >= link.unsent_bytes:
                room = 0
            near_bound = near_bound or 2 * held >= unacked.messages or 2 * held_bytes >= unacked.bytes
            unsent += outlet.unsent_messages
        self.room, self.unsent, self.full, self.near_bound = max(room, 0), unsent, room <= 0, near_bound

    @property
    def off(self) -> str:
        """How what is kept differs from what the outlets hold; "" if it does not, as it must be."""
        kept = self.room, self.unsent
        self._count()
        return "" if kept == (self.room, self.unsent) else f"{kept} is kept, not {self.room, self.unsent}"

    @property
    def in_flight(self) -> int:
        return sum(outlet.in_flight_messages for outlet in self.outlets)

    @property
    def lacks_consumers(self) -> bool:
        """On some link there is something to deliver, and nobody in session."""
        return any(outlet.held_messages and not outlet.sessions for outlet in self.outlets)

    def dispatch(self, now: float) -> list[Action]:
        """Everything that credit allows to be sent now."""
        sent: list[Action] = [
            SendParcel(session.id, header, body)
            for outlet in self.outlets
            if outlet.unsent_messages
            for session, header, body in outlet.sendable(now)
        ]
        self._count()
        return sent

    def next_at(self) -> float:
        """When `dispatch` should be called although nothing happens."""
        at = NEVER
        for outlet in self.outlets:
            at = min(at, outlet.send_at)
        return at

    def say_end(self, now: float) -> list[Action]:
        """Tells every consumer that has not been told since its last parcel."""
        return [SendParcel(s.id, header, body) for outlet in self.outlets for s, header, body in outlet.ends(now)]

    @property
    def ends_acked(self) -> bool:
        """On every link somebody has acked the end, and everybody in session has."""
        acked = all(outlet.end_acked for outlet in self.outlets)
        return acked and all(session.ended and not session.flights for _, session in self._sessions.values())

    def end_acked_before(self, consumer: str) -> None:
        """That stage has heard the end of this run's stream, though not from this incarnation."""
        for outlet in self.outlets:
            if outlet.consumer == consumer:
                outlet.note_end_acked()

    @property
    def stop_seen(self) -> bool:
        return all(session.seen_stopped for _, session in self._sessions.values())

    # ---- what consumers say

    def hello(
        self, route: bytes, hello: frames.Hello, now: float, sender: str, shown: ShownKey = NO_KEY
    ) -> list[Action]:
        """Opens a session, after closing the one this consumer had. A repeated hello is answered again.

        An open session is another's, whatever the hello says, if it does not have the secret that opened it. Such a consumer
        is let in when the session is over, which the loss of its connection shows at once.
        """
        outlet = next((o for o in self._by_name.get(hello.outlet, ()) if o.consumer == hello.stage), None)
        problem = self._problem(hello, outlet, sender, shown)
        if problem or outlet is None:
            return self._refuse_hello(route, hello, problem, sender)
        actions: list[Action] = []
        peer = (hello.stage, hello.instance)
        session = next((s for s in outlet.sessions.values() if s.peer == peer), None)
        if session is not None:
            if session.hello.secret != hello.secret:
                problem = f"{hello.stage}.{hello.instance} is in session by another connection"
                return self._refuse_hello(route, hello, problem, sender)
            if hello.number < session.hello.number:
                return []
            if hello.number == session.hello.number:
                session.route = route
                return [self._welcome(session)]
            actions += self.close(session.id)
        elif len(outlet.sessions) >= self._consumers(hello.stage).most:
            problem = f"{len(outlet.sessions)} instances of stage {hello.stage!r} are in session, which is the most there may be"
            return self._refuse_hello(route, hello, problem, sender)
        id = self._random_bytes(frames.SECRET_BYTES)
        codec = self._policy.link.codec
        session = OutletSession(id, hello, route, now, codec if codec in hello.codecs else "cbor")
        outlet.open(session)
        if hello.suspects_of == self._incarnation:
            outlet.suspect(hello.suspects)
        self._sessions[id] = (outlet, session)
        high_water_mark = hello.queue_messages + HIGH_WATER_SLACK
        return [*actions, OpenSession(id, hello.inbox, high_water_mark, shown.key), self._welcome(session)]

    def _refuse_hello(self, route: bytes, hello: frames.Hello, problem: str, sender: str) -> list[Action]:
        consumer, problem = f"{hello.stage}.{hello.instance}"[:160], problem[: frames.MAX_TEXT_CHARACTERS]
        return [
            Reply(route, frames.write(frames.Refuse(b"", problem, hello.number))),
            LogEvent("hello.refused", {"sender": sender, "consumer": consumer, "reason": problem}),
        ]

    def _consumers(self, stage: str) -> ConsumerPolicy:
        return self._policy.consumers.get(stage) or ConsumerPolicy()

    def _problem(self, hello: frames.Hello, outlet: Outlet | None, sender: str, shown: ShownKey) -> str:
        if hello.version != frames.VERSION:
            return f"protocol version {hello.version}: this producer speaks {frames.VERSION}"
        if hello.pipeline != self._pipeline:
            return f"pipeline {hello.pipeline!r}: this is {self._pipeline!r}"
        if hello.upstream != self._stage:
            return f"stage {hello.upstream!r}: this is {self._stage!r}"
        if outlet is None:
            name = f"outlet {hello.outlet!r}" if hello.outlet else "the default outlet"
            return f"the config of {self._stage!r} has no link from {name} to stage {hello.stage!r}"
        return admission.problem_of(hello, sender, self._consumers(hello.stage), shown)

    def _welcome(self, session: OutletSession) -> Reply:
        number = session.hello.number
        welcome = frames.Welcome(frames.VERSION, session.id, self._incarnation, number, session.codec)
        return Reply(session.route, frames.write(welcome))

    def statement(self, route: bytes, statement: frames.Statement, now: float, sender: str) -> list[Action]:
        """A consumer's state. One that cannot be true ends its session: nobody knows which of its acks to believe."""
        known = self._sessions.get(statement.session)
        if known is None or known[1].route != route:
            refusal: list[Action] = [self._refuse(route, statement, frames.NO_SESSION)]
            if known is None:
                return refusal
            reason = "a statement came by another connection than its session's"
            return [
                *refusal,
                LogEvent("statement.refused", {"sender": sender, "consumer": known[1].name, "reason": reason}),
            ]
        outlet, session = known
        if problem := session.problem_of(statement):
            event = LogEvent("session.broken", {"sender": sender, "consumer": session.name, "reason": problem})
            return [*self.close(session.id), self._refuse(route, statement, problem), event]
        outlet.read_statement(session, statement, now)
        self._count()
        return [self._confirm(outlet, session)] if statement.reply else []

    def refused(self, route: bytes, refuse: frames.Refuse, sender: str) -> list[Action]:
        """A consumer gives its session up, and says why."""
        known = self._sessions.get(refuse.session)
        if known is None or known[1].route != route:
            return []
        event = LogEvent("session.given_up", {"sender": sender, "consumer": known[1].name, "reason": refuse.reason})
        return [*self.close(refuse.session), event]

    def _refuse(self, route: bytes, statement: frames.Statement, reason: str) -> Reply:
        return Reply(route, frames.write(frames.Refuse(statement.session, reason, statement.number)))

    def _confirm(self, outlet: Outlet, session: OutletSession) -> Reply:
        return Reply(session.route, frames.write(session.confirm(outlet.lowest)))

    def hello_of(self, session_id: bytes) -> frames.Hello | None:
        """By which link a session goes, and to whom."""
        known = self._sessions.get(session_id)
        return known[1].hello if known is not None else None

    def consumer_at(self, route: bytes) -> str:
        """The instance whose session goes by that route; "" if none does."""
        return next((s.name for _, s in self._sessions.values() if s.route == route), "")

    def ready(self, session_id: bytes) -> None:
        """The session's PUSH is connected."""
        if session_id in self._sessions:
            outlet, session = self._sessions[session_id]
            outlet.ready(session)

    def close(self, session_id: bytes) -> list[Action]:
        """The session is over, for whatever reason; what it held is unsent again."""
        known = self._sessions.pop(session_id, None)
        if known is None:
            return []
        outlet, session = known
        outlet.close(session)
        self._count()
        return [CloseSession(session_id)]

    # ---- time

    def heartbeat(self, now: float) -> list[Action]:
        """Closes sessions of the dead, repeats to the others what this producer has sent."""
        actions: list[Action] = []
        silence_s = self._policy.link.peer_timeout_s
        for session_id, (outlet, session) in list(self._sessions.items()):
            unread = session.received < session.sequence and now - session.progress_at > silence_s
            if now - session.heard_at > silence_s or unread:
                actions += self.close(session_id)
            else:
                actions.append(self._confirm(outlet, session))
        return actions

    def slept(self, now: float) -> None:
        """This process stood still, so the silence of its consumers does not say that they are dead."""
        for _, session in self._sessions.values():
            session.heard_at = session.progress_at = now

    def need_confirms(self) -> list[Action]:
        """Confirms to consumers whose byte limit is too low for the next message."""
        return [self._confirm(o, s) for o in self.outlets for s in o.needing.values() if s.need_unsaid()]
