"""The receiver side of all links into a stage: sessions with upstream instances, the queue, and what is owed to whom.

May live here: accepting parcels, giving credit, handing back. It knows no plugin and no output; it never
acks by itself: a delivery is acked when whoever took its slices has finished them.

Accepted messages are in `queue` until taken, then held by whoever took them until `release`; credit comes back there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from zpipe.core.actions import Action
from zpipe.core.ledger import Counts
from zpipe.core.policy import Bound, LinkPolicy
from zpipe.core.priority_queue import PriorityQueue
from zpipe.core.upstream.credit import Credited
from zpipe.core.upstream.credit_sharing import CreditSharing
from zpipe.core.upstream.duplicates import Duplicates
from zpipe.core.upstream.incoming_link import IncomingLink, LinkDelivery
from zpipe.core.upstream.inlet_session import NEVER, PARTS_S, InletSession, ParcelDelivery
from zpipe.core.upstream.upstream import Upstream
from zpipe.core.wire import frames
from zpipe.core.wire.cbor import Encoded
from zpipe.core.wire.section import Section, sections_of
from zpipe.core.work.delivery import Delivery, Producer, Slice
from zpipe.errors import PeerError


class Inlet:
    """Bounded by `bound`: queued, in process and yet to come by credit never exceed it.

    rate, window   what the stage can serve in messages a second, and how many messages it is worth having here
    pressing       by the last `note_changes`, a producer has no credit, or may soon have none
    links          inputs that do not run over ZeroMQ
    """

    def __init__(self, bound: Bound, policy: LinkPolicy, counts: Counts, links: Sequence[IncomingLink] = ()) -> None:
        self.queue: deque[Slice] = deque()
        self.queued_bytes = 0
        self.dead_by_link: dict[tuple[str, str], int] = {}
        self.rate = 0.0
        self.window = 1
        self.leaving = False
        self.links = links
        self._credit_sharing = CreditSharing(bound)
        self._policy = policy
        self._counts = counts
        self._sessions: dict[bytes, tuple[Upstream, InletSession]] = {}
        self._duplicates = Duplicates(counts)
        self._statements_due: PriorityQueue[InletSession] = PriorityQueue()
        self._changed: dict[InletSession, None] = {}
        self._touched: dict[InletSession, None] = {}
        self._needing: dict[InletSession, None] = {}
        self._out_of_credit: dict[InletSession, None] = {}
        self._share_all = True
        self.pressing = False

    # ---- parcels

    def accept(self, session_id: bytes, parcel: frames.Parcel, body: Encoded, now: float) -> bool:
        """Takes a parcel into the queue. False: its session must be reset (a gap). Raises PeerError if it is malformed.

        A parcel of no open session is a leftover of one that was reset, or a repeat: it is passed over.
        """
        upstream, session = self._sessions.get(session_id, (None, None))
        if upstream is None or session is None or parcel.sequence <= session.sequence:
            return True
        if parcel.sequence != session.sequence + 1:
            return False
        if not parcel.sections:
            if body:
                raise PeerError("bytes behind the end of the stream")
            session.sequence = parcel.sequence
            session.ended = True
            session.finished.add(parcel.sequence, parcel.sequence + 1)
            self.due(session, now)
            return True
        sections, size = sections_of(parcel, body), len(body)
        delivery = ParcelDelivery(session, parcel.sequence, sections, self._delivered, now)
        if not session.admits(delivery.count, size):
            raise PeerError(f"{upstream.name} sent more than its credit")
        session.sequence = parcel.sequence
        session.ended = False
        session.deliveries[parcel.sequence] = delivery
        if session.parts_at == NEVER:
            session.parts_at = now + PARTS_S
            self._order(session)
        session.messages.receive(delivery.count)
        session.bytes.receive(size)
        offset = 0
        for section in sections:
            self._enqueue(upstream, delivery, section, offset, now)
            offset += section.count
        self._needing.pop(session, None)
        self._touch(session)
        return True

    def _enqueue(self, upstream: Upstream, delivery: ParcelDelivery, section: Section, offset: int, now: float) -> None:
        known = upstream.accepted
        arrived = Slice(delivery, section, offset, 0, section.count, now)
        if known.add_new(section.first, section.first + section.count):
            self._append(arrived)
            return
        for piece in self._duplicates.pass_over(known, arrived):  # rare: a redelivery of what is held here
            known.add(*piece.numbers)
            self._append(piece)

    def _append(self, piece: Slice) -> None:
        self._counts.receive(queued=piece.count)
        self.queue.append(piece)
        self.queued_bytes += piece.size

    def _delivered(self, delivery: Delivery) -> None:
        assert isinstance(delivery, ParcelDelivery)
        session = delivery.session
        if session.open:
            del session.deliveries[delivery.sequence]
            session.finished.add(delivery.sequence, delivery.sequence + 1)
            self._touch(session)
        else:
            self._duplicates.forget(delivery)

    # ---- links

    def take_arrivals(self, now: float) -> None:
        """Takes what has come by links into the queue, and gives credit anew."""
        for link in self.links:
            for arrival in link.arrived():
                delivery = LinkDelivery(link, arrival, self._link_delivered)
                offset = size = 0
                for section in delivery.sections:
                    self._append(Slice(delivery, section, offset, 0, section.count, now))
                    offset += section.count
                    size += section.size
                link.messages.receive(delivery.count)
                link.bytes.receive(size)
        self._share_all = True

    def _link_delivered(self, delivery: Delivery) -> None:
        assert isinstance(delivery, LinkDelivery)
        delivery.link.finished(delivery.token)
        self.pressing = True

    def tell_links(self, now: float) -> list[Action]:
        """What the far sides of links are to be told."""
        return [action for link in self.links for action in link.tell(now)]

    # ---- the queue

    @property
    def next(self) -> Slice | None:
        """What `take` would begin with; None while nothing is queued."""
        return self.queue[0] if self.queue else None

    @property
    def oldest_at(self) -> float:
        """When the message came that has been queued for longest; infinity while nothing is queued."""
        return self.queue[0].arrived_at if self.queue else NEVER

    def take(self, messages: int, bytes_: int) -> list[Slice]:
        """Up to so many of the oldest queued messages (at least one, whatever its size); they are in process from here.

        A suspect comes alone."""
        taken: list[Slice] = []
        size = 0
        while self.queue and messages > 0:
            piece = self.queue[0]
            if taken and (piece.section.suspicion or taken[-1].section.suspicion):
                break
            count = 1 if piece.section.suspicion else min(piece.count, messages)
            if size + (piece.size if count == piece.count else piece.part(0, count).size) > bytes_:
                if taken:  # to cut it would make two sections of output of one, and copies of both
                    break
                count = max(1, min(count, piece.count * (bytes_ - 1) // piece.size))
            if count < piece.count:
                self.queue[0] = piece.part(count, piece.count)
                piece = piece.part(0, count)
            else:
                self.queue.popleft()
            taken.append(piece)
            size += piece.size
            messages -= count
            self._counts.start(count)
        self.queued_bytes -= size
        return taken

    def release(self, piece: Slice) -> None:
        """This stage's own work on the slice is done: its room may be granted anew (the ack comes later)."""
        delivery = piece.delivery
        if not isinstance(delivery, ParcelDelivery):
            if isinstance(delivery, LinkDelivery):
                delivery.link.messages.released += piece.count
                delivery.link.bytes.released += piece.size
                self._share_all = self.pressing = True
            return
        session = delivery.session
        if session.open:
            session.messages.released += piece.count
            session.bytes.released += piece.size
            self._touch(session)
        else:
            self._credit_sharing.give_back(piece.count, piece.size)

    def release_dead(self, piece: Slice) -> None:
        """The message of the slice is a dead letter: released, and counted against the link it came by."""
        producer = piece.delivery.producer
        if producer is not None:
            link = producer.stage, producer.outlet
            self.dead_by_link[link] = self.dead_by_link.get(link, 0) + 1
        self.release(piece)

    def leave(self, now: float) -> None:
        """Grants nothing from now on, and hands back what is queued."""
        self.leaving = True
        for link in self.links:
            link.leave()
        self.hand_back(now)

    def hand_back(self, now: float) -> None:
        """Leaving: every queued message goes back to its producer, unstarted."""
        pieces = list(self.queue)
        self._drop_queue(pieces)
        for piece in pieces:
            self.hand_back_piece(piece, now)

    def hand_back_piece(self, piece: Slice, now: float) -> None:
        """Leaving: messages go back to their producer, as if they had not been taken."""
        delivery, (start, stop) = piece.delivery, piece.span
        self.release(piece)
        if isinstance(delivery, LinkDelivery):
            delivery.link.returned(delivery.token, start, stop)
            delivery.finish(start, stop)
            return
        if not isinstance(delivery, ParcelDelivery):
            return  # a dead letter that was being replayed: the store still has it
        if delivery.session.open:
            delivery.session.hand_back(delivery, start, stop)
            self.due(delivery.session, now)
            return
        for later, at in delivery.disown(start, stop):  # its session is over, so they may have come again
            if isinstance(later, ParcelDelivery) and later.session.open:
                later.session.hand_back(later, at, at + 1)
                self.due(later.session, now)
            else:
                later.finish(at, at + 1)
        delivery.finish(start, stop)

    def _drop_queue(self, pieces: list[Slice]) -> None:
        gone = set(map(id, pieces))
        self.queue = deque(piece for piece in self.queue if id(piece) not in gone)
        for piece in pieces:
            self._counts.hand_back(piece.count)
            self.queued_bytes -= piece.size

    # ---- sessions

    def open(self, upstream: Upstream, welcome: frames.Welcome, now: float) -> None:
        """A session that the producer has welcomed."""
        producer = Producer(*upstream.key, welcome.incarnation, welcome.numbers)
        session = InletSession(welcome.session, producer, now)
        upstream.begin(session)
        self._sessions[session.id] = (upstream, session)
        self._order(session)
        self._share_all = True

    def close(self, upstream: Upstream) -> None:
        """The session is over. What is queued of it is dropped: its producer still answers for it and sends it again.

        What is in process goes on; if the same incarnation sends it again, the new copy waits for the old (`_enqueue`).
        """
        session = upstream.session
        if session is None:
            return
        upstream.session = None
        del self._sessions[session.id]
        session.open = False
        self._statements_due.discard(session)
        for marked in (self._touched, self._needing, self._out_of_credit):
            marked.pop(session, None)
        mine = [p for p in self.queue if isinstance(p.delivery, ParcelDelivery) and p.delivery.session is session]
        self._drop_queue(mine)
        for piece in mine:
            upstream.accepted.remove(*piece.numbers)
            session.messages.released += piece.count
            session.bytes.released += piece.size
        self._credit_sharing.forget(session)
        self._duplicates.keep(session.deliveries.values())
        for piece in mine:
            piece.finish()
        session.finish_returned()
        self._share_all = True

    @property
    def sessions(self) -> Iterable[InletSession]:
        """The open sessions."""
        return (session for _, session in self._sessions.values())

    def owner(self, session_id: bytes) -> Upstream | None:
        """The upstream instance of an open session."""
        upstream, _ = self._sessions.get(session_id, (None, None))
        return upstream

    def confirmed(self, session: InletSession, confirm: frames.Confirm) -> None:
        """Takes in what a producer has read and sent: room that it gave up may go to others. Raises PeerError if that cannot be
        true."""
        if not session.confirmed(confirm):
            return
        upstream, _ = self._sessions[session.id]
        upstream.accepted.discard_below(confirm.lowest)
        if session.needs_room:
            self._needing[session] = None
        else:
            self._needing.pop(session, None)
        self._touched[session] = None
        self.pressing = self.pressing or session.pressing

    @property
    def _credited(self) -> list[Credited]:
        """The sessions and links that share the bound."""
        return [*self.sessions, *self.links]

    @property
    def held_messages(self) -> int:
        """Messages that are queued or in process: what the bound counts."""
        return self._credit_sharing.taken_messages + sum(one.messages.held for one in self._credited)

    @property
    def held_bytes(self) -> int:
        return self._credit_sharing.taken_bytes + sum(one.bytes.held for one in self._credited)

    @property
    def unfinished(self) -> bool:
        """Something that arrived is not finished yet, here or downstream."""
        here = bool(self._duplicates) or any(s.deliveries for s in self.sessions)
        return here or any(link.unfinished for link in self.links)

    @property
    def all_confirmed(self) -> bool:
        """Every producer in session has read all that there is to say to it."""
        return all(s.all_confirmed for s in self.sessions) and all(link.all_confirmed for link in self.links)

    # ---- credit

    @property
    def out_of_credit(self) -> bool:
        """A producer has no credit for its next message: nothing more comes from it before something is done."""
        return bool(self._out_of_credit) or any(link.messages.room < 1 or link.bytes.starving for link in self.links)

    def _touch(self, session: InletSession) -> None:
        """Something has happened in the session that changes its credit or its acks."""
        self._touched[session] = None
        self._changed[session] = None
        session.changed = True

    def note_changes(self, now: float) -> None:
        """Plans a statement for each session that has changed, at the time of the next statement of another session if that comes
        sooner: what costs is the turn. Called once a turn, since each message changes its session twice."""
        if not self._changed:
            return
        for session in self._changed:
            if session.open:
                upstream, _ = self._sessions[session.id]
                if upstream.awaits_acks:
                    self.due(session, now)
                elif session.due_at == NEVER:
                    self.due(session, min(now + self._policy.ack_delay_s, self._statements_due.lowest))
                self.pressing = self.pressing or session.pressing
        self._changed.clear()

    def _look(self, now: float) -> None:
        """Shares credit if a statement goes out anyway, or a producer may need one: with one message a turn that is every
        twentieth turn."""
        self.note_changes(now)
        due = self.pressing or self._share_all or self._needing or self._statements_due.lowest <= now
        if due or self._credit_sharing.uneven(self._sharers, self.window):
            self._share(now)

    @property
    def _sharers(self) -> int:
        """How many share the bound."""
        return len(self._sessions) + len(self.links)

    def _share(self, now: float) -> None:
        """Gives credit for what has become free."""
        sharing, count = self._credit_sharing, self._sharers
        sessions = touched = self._touched
        if self._share_all or self._needing or sharing.uneven(count, self.window):
            self._share_all = False
            sessions = dict.fromkeys(self.sessions)
            if not self.leaving and sharing.share(self._credited if self.links else sessions, self.window):
                for session in sessions:
                    session.ask_reply()
                    self.due(session, now)
        elif not self.leaving:
            sharing.top_up(sessions, count, self.window)
        self._touched = {} if self.leaving else dict.fromkeys(sharing.short(sessions, count, self.window))
        for session in sessions:
            if session.out_of_credit:
                self._out_of_credit[session] = None
            else:
                self._out_of_credit.pop(session, None)
            if session.low:
                self.due(session, now)
        self.pressing = bool(self._touched or self._out_of_credit)
        for session in touched:
            self.pressing = self.pressing or session.pressing

    @property
    def off(self) -> str:
        """For tests: how what is kept differs from what the sessions say; "" if it does not, as it must be after a turn."""
        out_of_credit = {session for session in self.sessions if session.out_of_credit}
        return (
            "" if out_of_credit == {*self._out_of_credit} else f"{[s.producer for s in out_of_credit]} have no credit"
        )

    # ---- statements

    def due(self, session: InletSession, at: float) -> None:
        """A statement of an open session is worth sending by `at`."""
        if at < session.due_at:
            session.due_at = at
            self._order(session)

    def _order(self, session: InletSession) -> None:
        """Its `due_at` or `parts_at` has changed: when to look at the session next."""
        self._statements_due.put(session, min(session.due_at, session.parts_at))

    def statements(self, now: float) -> Iterator[tuple[Upstream, frames.Statement]]:
        """The statements that are due now, each with the upstream instance that it is for."""
        if self._sessions or self.links:
            self._look(now)
        while self._statements_due.lowest <= now:
            session = self._statements_due.first
            assert session is not None
            upstream, _ = self._sessions[session.id]
            if session.parts_at <= now:
                session.tell_parts(now)
            if session.due_at <= now:
                yield upstream, session.state(self.rate, self.leaving, upstream.stopped)
            self._order(session)

    def next_statement_at(self) -> float:
        at = self._statements_due.lowest
        return min([at, *(link.next_at() for link in self.links)]) if self.links else at

    def state_changes(self, now: float) -> None:
        """Every session states what it has not said yet: before a snapshot, so that both ends count the same acks."""
        for session in self.sessions:
            if session.changed:
                self.due(session, now)

    def heartbeat(self, now: float) -> None:
        """Every session states itself again."""
        self._share_all = True
        if self._sharers and not self.leaving:
            for one in self._credit_sharing.weigh(self._credited, self.window):
                if isinstance(one, InletSession):
                    one.ask_reply()
        for session in self.sessions:
            self.due(session, now)
