"""Everything above this stage: its upstream instances, their liveness, and answering what they say.

May live here: hello and welcome, silence, the end of input. Parcels, credit and the queue are the inlet's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

from zpipe.core.actions import Action, LogEvent, Tell
from zpipe.core.policy import StagePolicy
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.upstream.inlet_session import InletSession
from zpipe.core.upstream.upstream import Upstream
from zpipe.core.wire import frames
from zpipe.core.wire.cbor import Encoded
from zpipe.errors import PeerError

NEVER = float("inf")
MOST_INSTANCES = 1000
"""The config allows a stage no more."""
ENDED = re.compile(r"ended:(.+)\.([0-9]{1,5})")
"""The request that says of an upstream instance, STAGE.N, that it has ended."""


SuspectedCalls = dict[tuple[str, str, int], tuple[str, list[list[int]]]]
"""By upstream (stage, outlet, instance): its incarnation, and [start, stop, alone] of messages that were in a call of the
plugin when the life before this one ended by accident."""


class Identity(NamedTuple):
    """Who this instance is, as it says in a hello. `remote_inbox`: the address of its inbox for instances of other hosts."""

    pipeline: str
    stage: str
    instance: int
    incarnation: str
    inbox: str = ""
    remote_inbox: str = ""


class UpstreamsState(NamedTuple):
    """What is known of all upstream instances together.

    ended    on every link somebody has said the end, and nobody who is known may still have something
    stopped  on every link every known instance has stopped: nothing can come any more
    """

    ended: bool
    stopped: bool


class Upstreams:
    """`links` are (upstream stage, outlet), in the order of the config; none for a head stage. An input that does not run over
    ZeroMQ is one of the inlet's `links`: it is asked here whether it has ended, and nothing else.

    remote  instances of other hosts
    secret  random bytes of this incarnation, which only its producers read: nobody else can open a session in its place
    """

    def __init__(
        self,
        me: Identity,
        secret: bytes,
        links: Sequence[tuple[str, str]],
        inlet: Inlet,
        policy: StagePolicy,
        suspects: SuspectedCalls | None = None,
        remote: Container[tuple[str, int]] = (),
    ) -> None:
        self._me = me
        self._secret = secret
        others = {(link.stage, link.outlet) for link in inlet.links}
        self._links = [link for link in links if link not in others]
        self._inlet = inlet
        self._policy = policy
        self._upstreams: dict[tuple[str, str, int], Upstream] = {}
        self._codecs: list[str] = list(dict.fromkeys(("cbor", policy.link.codec)))
        self._unwelcomed: dict[tuple[str, str, int], Upstream] = {}
        self._awaiting: dict[tuple[str, str, int], Upstream] = {}
        self._hello_number = 0
        self._changed = False
        self._state = self._recount()
        self._suspects = dict(suspects or {})
        self._remote = remote

    def _of(self, peer: tuple[str, int]) -> list[Upstream]:
        """An upstream instance, once for each link it feeds; made when first heard of."""
        stage, instance = peer
        found = []
        for link_stage, outlet in self._links:
            if link_stage == stage:
                key = (stage, outlet, instance)
                upstream = self._upstreams.get(key)
                if upstream is None:
                    upstream = self._upstreams[key] = Upstream(stage, outlet, instance)
                found.append(upstream)
        return found

    # ---- connections

    def connected(self, peer: tuple[str, int], now: float) -> None:
        self._changed = True
        for upstream in self._of(peer):
            upstream.connected = upstream.known = True
            upstream.heard_at = now
            self._ask_anew(upstream, now)

    def disconnected(self, peer: tuple[str, int]) -> None:
        """Its process is gone, or the line: what it still holds comes again in another session."""
        self._changed = True
        for upstream in self._of(peer):
            upstream.connected = False
            self._end_session(upstream)
            upstream.hello_at = None
            self._unwelcomed.pop(upstream.key, None)

    def expected(self, peer: tuple[str, int]) -> None:
        """An instance that is to run, connected or not: the input has not ended before it has said so."""
        self._changed = True
        for upstream in self._of(peer):
            upstream.known = True

    def gone(self, peer: tuple[str, int]) -> None:
        """A mark on disk says that the instance stopped at the end of its stream, before this one started."""
        self._changed = True
        for upstream in self._of(peer):
            upstream.known = upstream.stopped = upstream.marked = True
            upstream.left = False
            self._note_awaiting(upstream)

    def left(self, peer: tuple[str, int]) -> None:
        """A mark on disk says that the instance left in order, maybe before this one started: its siblings go on."""
        self._changed = True
        for upstream in self._of(peer):
            upstream.known = upstream.stopped = upstream.left = True
            self._note_awaiting(upstream)

    def gone_by_word(self, what: str) -> bool:
        """Takes the request `ended:STAGE.N`: an operator has seen that this instance stopped at the end of its stream. False:
        this is another request, or the instance is not upstream of this stage, or is in session here."""
        found = ENDED.fullmatch(what)
        if found is None or not 1 <= int(found[2]) <= MOST_INSTANCES:
            return False
        peer = found[1], int(found[2])
        upstreams = self._of(peer)
        if not upstreams or any(upstream.session is not None for upstream in upstreams):
            return False
        self.gone(peer)
        return True

    def _end_session(self, upstream: Upstream) -> None:
        self._inlet.close(upstream)
        self._note_awaiting(upstream)

    def _note_awaiting(self, upstream: Upstream) -> None:
        """Keeps `_awaiting` as it is to be: whether this one waits for acks may have changed, as it does often under load."""
        if _waits_for_acks(upstream):
            self._awaiting[upstream.key] = upstream
        else:
            self._awaiting.pop(upstream.key, None)

    def _ask_anew(self, upstream: Upstream, now: float, fault: bool = False) -> None:
        """Ends the session, if there is one, and says hello for another. After a fault there is at most one session a
        heartbeat, or two that misunderstand each other would open sessions as fast as they can."""
        self._changed = True
        session = upstream.session
        self._end_session(upstream)
        self._unwelcomed[upstream.key] = upstream
        self._hello_number += 1
        upstream.hello_number = self._hello_number
        upstream.hello_at = now
        if fault and session is not None:
            upstream.hello_at = max(now, session.opened_at + self._policy.link.heartbeat_s)

    # ---- what upstream instances say

    def heard(self, peer: tuple[str, int], frame: frames.Frame, now: float) -> list[Action]:
        """A frame from an instance's feedback or control socket. Raises PeerError for a kind that does not belong there."""
        actions: list[Action] = []
        self._changed = self._changed or not isinstance(frame, frames.Confirm | frames.Announcement)
        for upstream in self._of(peer):
            upstream.heard_at = now
            session = upstream.session
            match frame:
                case frames.Announcement():
                    if frame.stage != upstream.stage or frame.instance != upstream.instance:
                        raise PeerError(f"announces itself as {frame.stage}.{frame.instance}", frame.kind, "stage")
                    before = upstream.said
                    reborn = upstream.hear(frame, now)
                    self._changed = self._changed or upstream.said != before
                    self._note_awaiting(upstream)
                    if session is not None and reborn:
                        self._ask_anew(upstream, now)
                    elif session is not None and (upstream.stopped or (upstream.awaits_acks and session.changed)):
                        self._inlet.due(session, now)
                case frames.Welcome() if frame.version != frames.VERSION:
                    actions.append(_log_event("upstream.refuses", upstream, _of_version(upstream, frame)))
                case frames.Welcome():
                    if upstream.hello_at is not None and frame.number == upstream.hello_number:
                        if self._inlet.owner(frame.session) is not None:
                            raise PeerError("welcome.session is the name of one that is open", frame.kind, "session")
                        upstream.hello_at = None
                        self._unwelcomed.pop(upstream.key, None)
                        self._suspects.pop(upstream.key, None)
                        self._inlet.open(upstream, frame, now)
                        self._note_awaiting(upstream)
                case frames.Confirm():
                    if session is not None and session.id == frame.session:
                        actions += self._confirmed(upstream, session, frame, now)
                case frames.Refuse():
                    if session is not None and session.id == frame.session:
                        fault = frame.reason != frames.NO_SESSION
                        self._ask_anew(upstream, now, fault)
                        if fault:
                            actions.append(_log_event("session.refused", upstream, frame.reason))
                    elif not frame.session and frame.number == upstream.hello_number:
                        actions.append(_log_event("upstream.refuses", upstream, frame.reason))
                case _:
                    raise PeerError(f"a {frame.kind} from an upstream instance", frame.kind)
        return actions

    def _confirmed(
        self, upstream: Upstream, session: InletSession, confirm: frames.Confirm, now: float
    ) -> list[Action]:
        """A confirm that cannot be true ends the session, and the producer is told: nobody knows any more what it has sent."""
        try:
            self._inlet.confirmed(session, confirm)
        except PeerError as error:
            self._ask_anew(upstream, now, fault=True)
            refuse = frames.Refuse(session.id, str(error), confirm.number)
            return [Tell(upstream.peer, frames.write(refuse)), _log_event("session.broken", upstream, str(error))]
        return []

    def parcel(self, frame: frames.Frame, body: Encoded, now: float) -> bool:
        """False: it is of no open session, and passed over. Raises PeerError if it is malformed; then, and after a gap, the
        session is begun anew."""
        if not isinstance(frame, frames.Parcel):
            raise PeerError(f"a {frame.kind} in the inbox", frame.kind)
        upstream = self._inlet.owner(frame.session)
        self._changed = self._changed or not frame.sections or self._state.ended
        try:
            sound = self._inlet.accept(frame.session, frame, body, now)
        except PeerError as error:
            error.kind = frame.kind
            if upstream is not None:
                error.peer = upstream.name
                self._ask_anew(upstream, now, fault=True)
            raise
        if upstream is not None:
            upstream.heard_at = now
            if not sound:
                self._ask_anew(upstream, now)
        return upstream is not None

    # ---- time

    def hellos(self, now: float) -> list[Action]:
        """The hellos that are due; each is repeated at every heartbeat until it is answered."""
        actions: list[Action] = []
        me = self._me
        for upstream in self._unwelcomed.values():
            if upstream.hello_at is None or upstream.hello_at > now or not self._waits(upstream):
                continue
            upstream.hello_at = now + self._policy.link.heartbeat_s
            hello = frames.Hello(
                frames.VERSION,
                me.pipeline,
                me.stage,
                me.instance,
                me.incarnation,
                self._secret,
                upstream.outlet,
                upstream.stage,
                me.remote_inbox if upstream.peer in self._remote else me.inbox,
                upstream.hello_number,
                self._policy.queue.messages,
                *self._suspects.get(upstream.key, ("", [])),
                self._codecs,
            )
            actions.append(Tell(upstream.peer, frames.write(hello)))
        return actions

    def next_at(self) -> float:
        """When the next hello is due."""
        if not self._unwelcomed:
            return NEVER
        waiting = (u.hello_at for u in self._unwelcomed.values() if u.hello_at is not None and self._waits(u))
        return min(waiting, default=NEVER)

    def _waits(self, upstream: Upstream) -> bool:
        return upstream.connected and not upstream.stopped and not self._inlet.leaving

    def heartbeat(self, now: float) -> None:
        """Sessions whose producer has been silent for too long are begun anew."""
        for upstream in self._upstreams.values():
            if upstream.session is not None and now - upstream.heard_at > self._policy.link.peer_timeout_s:
                self._ask_anew(upstream, now)
        self._inlet.heartbeat(now)

    def slept(self, now: float) -> None:
        """This process stood still for longer than its peers wait: what is queued has been given to others."""
        for upstream in self._upstreams.values():
            upstream.heard_at = now
            if upstream.session is not None:
                self._ask_anew(upstream, now)

    # ---- the end of input

    @property
    def awaits_acks(self) -> bool:
        """Some producer waits for acks of what may lie in a partial batch here."""
        links = self._inlet.links
        return bool(self._awaiting) or (bool(links) and any(link.awaits_acks for link in links))

    def link_heard(self) -> None:
        """An input that does not run over ZeroMQ may have ended."""
        self._changed = True

    @property
    def state(self) -> UpstreamsState:
        """It is kept, since every turn asks for it several times and it changes a few times in a life."""
        if self._changed:
            self._state = self._recount()
            self._changed = False
        return self._state

    def _recount(self) -> UpstreamsState:
        others = self._inlet.links
        return UpstreamsState(
            self._every_link(lambda u: u.flushed) and all(link.ended for link in others),
            self._every_link(lambda u: u.stopped and not u.left) and all(link.stopped for link in others),
        )

    @property
    def off(self) -> str:
        """For tests: where what is kept differs from what the instances say; "" if nowhere, as it must be."""
        awaiting = {key: upstream for key, upstream in self._upstreams.items() if _waits_for_acks(upstream)}
        if self._awaiting.keys() != awaiting.keys():
            return f"{list(self._awaiting)} are kept as waiting for acks, not {list(awaiting)}"
        return "" if self.state == self._recount() else f"{self.state} is kept, not {self._recount()}"

    def _every_link(self, over: Callable[[Upstream], bool]) -> bool:
        for stage, outlet in self._links:
            known = [u for u in self._upstreams.values() if u.known and (u.stage, u.outlet) == (stage, outlet)]
            if not any(map(over, known)) or not all(over(u) or u.left for u in known):
                return False
        return True

    def waiting_for(self) -> list[str]:
        """Names of upstream instances whose end or stop is still to come, for people; a stage when none of it is known, or
        all have left."""
        names = []
        for stage, outlet in self._links:
            known = [u for u in self._upstreams.values() if u.known and (u.stage, u.outlet) == (stage, outlet)]
            names += [u.name for u in known if not u.stopped] if not all(u.left for u in known) else [stage]
        return names + [name for link in self._inlet.links for name in link.waiting_for()]


def _of_version(upstream: Upstream, welcome: frames.Welcome) -> str:
    spoken = f"{upstream.name} speaks version {welcome.version} of the protocol"
    return f"{spoken} and this instance version {frames.VERSION}: update the older one"


def _log_event(event: str, upstream: Upstream, reason: str) -> LogEvent:
    return LogEvent(event, {"upstream": upstream.name, "reason": reason})


def _waits_for_acks(upstream: Upstream) -> bool:
    return upstream.awaits_acks and upstream.session is not None and not upstream.stopped
