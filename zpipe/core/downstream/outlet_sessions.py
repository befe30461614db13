"""The sessions of all ZeroMQ links out of this stage, and answering what their consumers say.

May live here: matching a hello to an outlet, and the liveness of consumers. Choosing a consumer and keeping sections is the
outlet's; whether the config allows a consumer is `admission`'s.

A session belongs to the connection (`route`) by which its consumer came. Whoever else speaks of it is refused in the same words
as somebody who names a session that does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zpipe.core.actions import Action, CloseSession, LogEvent, OpenSession, Reply
from zpipe.core.downstream import admission
from zpipe.core.downstream.outgoing_link import OutgoingLink
from zpipe.core.downstream.outlet import Outlet
from zpipe.core.downstream.outlet_session import OutletSession
from zpipe.core.policy import ConsumerPolicy, StagePolicy
from zpipe.core.wire import frames
from zpipe.core.wire.peer_address import NO_KEY, ShownKey

HIGH_WATER_SLACK = 64
"""Above the credit, for ends and for parcels that cross a lowered limit: the high-water mark is the fuse, not the bound."""


class OutletSessions:
    """`outlets`: what of the `links` runs over ZeroMQ.

    random_bytes  so many bytes that nobody can guess, from the shell: sessions are named by them
    """

    def __init__(
        self,
        pipeline: str,
        stage: str,
        incarnation: str,
        links: Sequence[OutgoingLink],
        policy: StagePolicy,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.outlets = [outlet for link in links for outlet in link.outlets]
        self._pipeline = pipeline
        self._stage = stage
        self._incarnation = incarnation
        self._policy = policy
        self._sessions: dict[bytes, tuple[Outlet, OutletSession]] = {}
        self._random_bytes = random_bytes

    # ---- what consumers say

    def hello(
        self, route: bytes, hello: frames.Hello, now: float, sender: str, shown: ShownKey = NO_KEY
    ) -> list[Action]:
        """Opens a session, after closing the one this consumer had. A repeated hello is answered again.

        If the consumer's instance is in session, a hello without the secret that opened it is refused, whatever else it says. Its
        sender is let in when that session is over, which the loss of its connection shows at once.
        """
        link = hello.outlet, hello.stage
        outlet = next((o for o in self.outlets if (o.name, o.consumer) == link), None)
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
                return [self._welcome(outlet, session)]
            actions += self.close(session.id)
        elif len(outlet.sessions) >= self._consumers(hello.stage).most:
            problem = f"{len(outlet.sessions)} instances of stage {hello.stage!r} are in session, which is the most there may be"
            return self._refuse_hello(route, hello, problem, sender)
        id = self._random_bytes(frames.SECRET_BYTES)
        codec = self._policy.link.codec
        session = OutletSession(id, hello, route, now, codec if codec in hello.codecs else "cbor")
        outlet.open(session)
        if hello.suspects_of == (outlet.numbers or self._incarnation):
            outlet.suspect(hello.suspects)
        self._sessions[id] = (outlet, session)
        high_water_mark = hello.queue_messages + HIGH_WATER_SLACK
        return [*actions, OpenSession(id, hello.inbox, high_water_mark, shown.key), self._welcome(outlet, session)]

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
            spoken = f"{hello.stage}.{hello.instance} speaks version {hello.version} of the protocol"[:160]
            return f"{spoken} and {self._stage} version {frames.VERSION}: update the older one"
        if hello.pipeline != self._pipeline:
            return f"pipeline {hello.pipeline!r}: this is {self._pipeline!r}"
        if hello.upstream != self._stage:
            return f"stage {hello.upstream!r}: this is {self._stage!r}"
        if outlet is None:
            name = f"outlet {hello.outlet!r}" if hello.outlet else "the default outlet"
            return f"the config of {self._stage!r} has no link from {name} to stage {hello.stage!r}"
        return admission.problem_of(hello, sender, self._consumers(hello.stage), shown)

    def _welcome(self, outlet: Outlet, session: OutletSession) -> Reply:
        number, numbers = session.hello.number, outlet.numbers
        welcome = frames.Welcome(frames.VERSION, session.id, self._incarnation, number, session.codec, numbers)
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
        """The hello that opened the session, which names its link and its consumer; None for a session that is not open."""
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
        return [self._confirm(o, s) for o in self.outlets if o.needing for s in o.needing.values() if s.need_unsaid()]
