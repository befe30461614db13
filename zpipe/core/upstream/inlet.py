"""The receiver side of all links into a stage: sessions with upstream instances, the queue, and what is owed to whom.

May live here: accepting parcels, giving credit, knowing duplicates, handing back. It knows no plugin and no output; it never
acks by itself: a delivery is acked when whoever took its slices has finished them.

Accepted messages are in `queue` until taken, then held by whoever took them until `release`; credit comes back there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from zpipe.core.ledger import Counts
from zpipe.core.policy import Bound, LinkPolicy
from zpipe.core.upstream.credit_sharing import CreditSharing
from zpipe.core.upstream.inlet_session import NEVER, PARTS_S, InletSession
from zpipe.core.upstream.upstream import Upstream
from zpipe.core.wire import frames
from zpipe.core.wire.parcel import part
from zpipe.core.wire.section import Section
from zpipe.core.work.delivery import Delivery, Slice
from zpipe.errors import PeerError


class Inlet:
    """Bounded by `bound`: queued, in process and yet to come by credit never exceed it.

    rate, window  what the stage can serve, and how much it is worth having here
    crowded       a producer has no credit for its next message: nothing more comes from it before something is done
    """

    def __init__(self, bound: Bound, policy: LinkPolicy, counts: Counts) -> None:
        self.queue: deque[Slice] = deque()
        self.queued_bytes = 0
        self.dead_by_link: dict[tuple[str, str], int] = {}
        self.rate = 0.0
        self.window = 1
        self.crowded = False
        self.leaving = False
        self._credit_sharing = CreditSharing(bound)
        self._policy = policy
        self._counts = counts
        self._sessions: dict[bytes, InletSession] = {}
        self._orphans: list[Delivery] = []
        self._orphan_messages = 0
        self._orphan_bytes = 0
        self._moved = True

    # ---- parcels

    def accept(self, session_id: bytes, parcel: frames.Parcel | frames.End, body: bytes, now: float) -> bool:
        """Takes a parcel into the queue. False: its session must be reset (a gap). Raises PeerError if it is malformed.

        A parcel of no open session is a leftover of one that was reset, or a repeat: it is passed over.
        """
        session = self._sessions.get(session_id)
        if session is None or parcel.sequence <= session.sequence:
            return True
        if parcel.sequence != session.sequence + 1:
            return False
        sections = [] if isinstance(parcel, frames.End) else part(parcel, body)
        if not session.admits(sections):
            raise PeerError(f"{session.upstream.name} sent more than its credit")
        session.sequence = parcel.sequence
        session.ended = not sections
        if not sections:
            session.finished.add(parcel.sequence, parcel.sequence + 1)
            session.due(now)
            return True
        delivery = Delivery(session, parcel.sequence, sections, self._delivered, now, session.upstream.input)
        session.deliveries[parcel.sequence] = delivery
        session.parts_at = min(session.parts_at, now + PARTS_S)
        session.messages.receive(delivery.count)
        session.bytes.receive(sum(section.size for section in sections))
        offset = 0
        for section in sections:
            self._enqueue(session, delivery, section, offset, now)
            offset += section.count
        session.changed = self._moved = True
        return True

    def _enqueue(self, session: InletSession, delivery: Delivery, section: Section, offset: int, now: float) -> None:
        known = session.upstream.accepted
        if not known.overlaps(section.first, section.first + section.count):
            self._queue_new(session, Slice(delivery, section, offset, 0, section.count, now))
            return
        for at in range(section.count):  # rare: a redelivery by a producer whose messages are held here already
            one = Slice(delivery, section, offset, at, at + 1, now)
            if section.first + at not in known:
                self._queue_new(session, one)
                continue
            self._counts.duplicates += 1
            session.messages.released += 1
            session.bytes.released += one.size
            for orphan in self._orphans:
                of = orphan.session
                ours = of is not None and (of.upstream, of.incarnation) == (session.upstream, session.incarnation)
                held = orphan.find(section.first + at) if ours else None
                if held is not None:
                    orphan.adopt(held, delivery, offset + at)
                    break
            else:
                delivery.finish(offset + at, offset + at + 1)

    def _queue_new(self, session: InletSession, piece: Slice) -> None:
        first = piece.section.first
        session.upstream.accepted.add(first + piece.start, first + piece.stop)
        self._counts.received += piece.count
        self._counts.queued += piece.count
        self.queue.append(piece)
        self.queued_bytes += piece.size

    def _delivered(self, delivery: Delivery) -> None:
        session = delivery.session
        assert session is not None
        if session.open:
            session.changed = True
            del session.deliveries[delivery.sequence]
            session.finished.add(delivery.sequence, delivery.sequence + 1)
            self._moved = True
        else:
            self._orphans.remove(delivery)

    # ---- the queue

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
            while count > 1 and size + piece.part(0, count).size > bytes_:
                count = max(1, count // 2)
            if taken and size + piece.part(0, count).size > bytes_:
                break
            if count < piece.count:
                self.queue[0] = piece.part(count, piece.count)
                piece = piece.part(0, count)
            else:
                self.queue.popleft()
            taken.append(piece)
            size += piece.size
            messages -= count
            self._counts.queued -= count
            self._counts.in_process += count
        self.queued_bytes -= size
        return taken

    def release(self, piece: Slice) -> None:
        """This stage's own work on the slice is done: its room may be granted anew (the ack comes later)."""
        session = piece.delivery.session
        if session is None:
            return
        if session.open:
            session.messages.released += piece.count
            session.bytes.released += piece.size
            session.changed = True
        else:
            self._orphan_messages -= piece.count
            self._orphan_bytes -= piece.size
        self._moved = True

    def bury(self, piece: Slice) -> None:
        """The message of the slice is a dead letter: released, and counted against the link it came by."""
        session = piece.delivery.session
        if session is not None:
            link = session.upstream.stage, session.upstream.outlet
            self.dead_by_link[link] = self.dead_by_link.get(link, 0) + 1
        self.release(piece)

    def hand_back(self, now: float) -> None:
        """Leaving: every queued message goes back to its producer, unstarted."""
        for piece in self.queue:
            session = piece.delivery.session
            assert session is not None
            session.hand_back(piece.delivery, piece.offset + piece.start, piece.offset + piece.stop)
            session.messages.released += piece.count
            session.bytes.released += piece.size
            session.due(now)
        self._drop_queue(list(self.queue))

    def _drop_queue(self, pieces: list[Slice]) -> None:
        gone = set(map(id, pieces))
        self.queue = deque(piece for piece in self.queue if id(piece) not in gone)
        for piece in pieces:
            self._counts.queued -= piece.count
            self._counts.returned += piece.count
            self.queued_bytes -= piece.size

    # ---- sessions

    def open(self, upstream: Upstream, welcome: frames.Welcome, now: float) -> None:
        """A session that the producer has welcomed."""
        session = InletSession(welcome.session, welcome.incarnation, upstream, now)
        upstream.begin(session)
        self._sessions[session.id] = session
        self._moved = True

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
        mine = [piece for piece in self.queue if piece.delivery.session is session]
        self._drop_queue(mine)
        for piece in mine:
            first = piece.section.first
            upstream.accepted.remove(first + piece.start, first + piece.stop)
            session.messages.released += piece.count
            session.bytes.released += piece.size
        self._orphan_messages += session.messages.held
        self._orphan_bytes += session.bytes.held
        self._orphans += session.deliveries.values()
        for piece in mine:
            piece.finish()
        session.finish_returned()
        self._moved = True

    @property
    def sessions(self) -> Iterable[InletSession]:
        """Those that are open."""
        return self._sessions.values()

    def owner(self, session_id: bytes) -> Upstream | None:
        """The upstream instance of an open session."""
        session = self._sessions.get(session_id)
        return session.upstream if session is not None else None

    def confirmed(self, session: InletSession, confirm: frames.Confirm, now: float) -> None:
        """What the producer has read and sent: room it gave up may be granted to others now. Raises PeerError if it cannot be."""
        if not session.confirmed(confirm):
            return
        session.upstream.accepted.discard_below(confirm.lowest)
        self._moved = True

    @property
    def held_messages(self) -> int:
        """Queued and in process: what the bound bounds."""
        return self._orphan_messages + sum(s.messages.held for s in self._sessions.values())

    @property
    def held_bytes(self) -> int:
        return self._orphan_bytes + sum(s.bytes.held for s in self._sessions.values())

    @property
    def unfinished(self) -> bool:
        """Something that arrived is not finished yet, here or downstream."""
        return bool(self._orphans) or any(s.deliveries for s in self._sessions.values())

    @property
    def all_confirmed(self) -> bool:
        """Every producer in session has read all that there is to say to it."""
        return all(s.all_confirmed for s in self._sessions.values())

    # ---- statements

    def statements(self, now: float) -> Iterator[tuple[Upstream, frames.Statement]]:
        """Those that are due now."""
        if self._moved:
            self._share(now)
            self._moved = False
        for session in self._sessions.values():
            if session.parts_at <= now:
                session.tell_parts(now)
            if session.due_at <= now:
                yield session.upstream, session.state(self.rate, self.leaving, session.upstream.stopped)

    def next_statement_at(self) -> float:
        return min((min(s.due_at, s.parts_at) for s in self._sessions.values()), default=NEVER)

    def heartbeat(self, now: float) -> None:
        """Every session states itself again."""
        self._moved = True
        for session in self._sessions.values():
            session.due(now)

    def _share(self, now: float) -> None:
        sessions = list(self._sessions.values())
        if not self.leaving and self._credit_sharing.share(
            sessions, self.window, self._orphan_messages, self._orphan_bytes
        ):
            for session in sessions:
                session.ask_reply()
                session.due(now)
        self.crowded = any(s.messages.room < 1 or s.bytes.starving for s in sessions)
        for session in sessions:
            if session.low:
                session.due(now)
            elif session.changed:
                session.due(now + self._policy.ack_delay_s)
