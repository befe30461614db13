"""The two ends of a link, as a playbook plays them: an inlet with its producers, an outlet with its consumers.

What tests know of the attributes of `Inlet` and `Outlet` is in this file, and the words that scripts are written in. The
script itself and how it is compared does not belong here: see `playbook`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from playbook import Line, line
from session_names import SECRET, named

from zpipe.core.downstream.outlet import Outlet
from zpipe.core.downstream.outlet_session import OutletSession
from zpipe.core.ledger import Counts, Derivation, EachDerivation
from zpipe.core.policy import MIB, Bound, Codec, LinkPolicy
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.upstream.upstream import Upstream
from zpipe.core.wire import frames, section
from zpipe.core.work.delivery import Slice
from zpipe.core.work.task import Chunk
from zpipe.errors import PeerError

UNLIMITED_BYTES = 1 << 40
NOW = 1.0
"""At the producer's end, unless an event says another time."""
FAST = 1e9
"""So fast a consumer is always about to run dry: it is sent whatever is there."""

# Frames, which go in at one end and come out at the other; the first value is the session.
# parcel(session, sequence, numbers of a section, …); attempt= and suspicion= are one for all or a list of one for each section.
# As an event it may have size= of each payload, and junk= behind its body.
welcome, hello, parcel, end = line("welcome"), line("hello"), line("parcel"), line("end")
statement, confirm = line("statement"), line("confirm")
# Events of both ends.
session_lost = line("session_lost")
# Events of a consumer: `opened` is a welcome and the statements that follow; its stage takes messages, finishes its own work on
# them (`release`), hears that all derived from them is finished (`finish`; `done` is both) and leaves.
opened, turn, heartbeat = line("opened"), line("turn"), line("heartbeat")
take, release, finish, done = line("take"), line("release"), line("finish"), line("done")
leave, hand_back = line("leave"), line("hand_back")
# What comes out of a consumer besides frames, and `states`: what the next statement says, due or not.
taken, gap, peer_error, states = line("taken"), line("gap"), line("peer_error"), line("states")
# Events of a producer: its stage offers so many messages, a PUSH is connected, a consumer suspects messages.
offer, connected, suspect = line("offer"), line("connected"), line("suspect")
send, send_ends = line("send"), line("send_ends")
# What comes out of a producer besides frames: the inputs of these outputs are finished. `confirms`: what a confirm says now.
finished, confirms = line("finished"), line("confirms")
# Counts of an end, or of the session that is named.
shows = line("shows")


def encoded(numbers: Sequence[int], size: int = 0, codec: Codec = "cbor") -> bytes:
    """A section of messages of these numbers, whose ids are the numbers too."""
    count = len(numbers)
    return section.encode([str(n) for n in numbers], [0.0] * count, ["x" * size] * count, None, codec)


def codec_of(body: bytes) -> Codec:
    return "msgpack" if body[0] == 0x94 else "cbor"


class LinkEnd:
    """What both ends are to a playbook: an event `parcel(…)` calls `on_parcel(…)`, which gives what comes out to `_give`."""

    def __init__(self) -> None:
        self._came: list[Line] = []

    def handle(self, event: Line) -> list[Line]:
        try:
            getattr(self, f"on_{event.kind}")(*event.values, **event.fields)
        except PeerError as error:
            self._give(peer_error(reason=str(error)))
        assert self.off() == 0, f"the counts do not add up after {event}"
        came, self._came = self._came, []
        return came

    def answer(self, question: Line) -> Line | None:
        return Line("shows", question.values, self.look(*question.values)) if question.kind == "shows" else None

    def look(self, name: str = "") -> dict[str, Any]:
        """The counts of the end itself, or of the session of this name."""
        raise NotImplementedError

    def off(self) -> int:
        """0 when the identity of the end's counts holds."""
        raise NotImplementedError

    def _give(self, came: Line) -> None:
        self._came.append(came)


# ---- the consumer's end


@dataclass
class Producer:
    """What the other end of a consumer's session has sent, and the last statement that it got."""

    upstream: Upstream
    sequence: int = 0
    sent_messages: int = 0
    sent_bytes: int = 0
    statement: frames.Statement | None = None


class ConsumerEnd(LinkEnd):
    """An inlet with these sessions open, each with an upstream instance of its own.

    producers   by session
    in_process  pieces that were taken;  released  those that this stage's own work is done on, but which are not finished
    """

    def __init__(self, *sessions: str, messages: int = 100, size: int = MIB) -> None:
        super().__init__()
        self.counts = Counts()
        self.inlet = Inlet(Bound(messages, size), LinkPolicy(), self.counts)
        self.inlet.window = messages
        self.producers: dict[str, Producer] = {}
        self.in_process: list[Slice] = []
        self.released: list[Slice] = []
        self.now = 0.0
        for instance, session in enumerate(sessions, 1):
            self.handle(opened(session, instance=instance))

    def answer(self, question: Line) -> Line | None:
        if question.kind != "states":
            return super().answer(question)
        self.handle(heartbeat())
        [name] = question.values
        said = self.producers[name].statement
        assert said is not None
        return states(name, **asdict(said))

    def look(self, name: str = "") -> dict[str, Any]:
        if name:
            producer = self.producers[name]
            session = producer.upstream.session
            return {
                "sent_bytes": producer.sent_bytes,
                "ended": producer.upstream.flushed,
                "accepted": list(producer.upstream.accepted),
                "needs": (session.messages.need, session.bytes.need) if session else None,
                "may_arrive": session.messages.ceiling if session else None,
            }
        return {
            **asdict(self.counts),
            "held": self.inlet.held_messages,
            "held_bytes": self.inlet.held_bytes,
            "queued_bytes": self.inlet.queued_bytes,
            "unfinished": self.inlet.unfinished,
            "all_confirmed": self.inlet.all_confirmed,
            "next_statement_at": self.inlet.next_statement_at(),
        }

    def off(self) -> int:
        return self.counts.off()

    @property
    def queued(self) -> list[Slice]:
        return list(self.inlet.queue)

    # -- frames

    def on_welcome(self, name: str, incarnation: str = "u1", instance: int = 1, outlet: str = "") -> None:
        known = [one.upstream for one in self.producers.values()]
        mine = [one for one in known if (one.instance, one.outlet) == (instance, outlet)]
        upstream = mine[0] if mine else Upstream("up", outlet, instance)
        self.producers[name] = Producer(upstream)
        self.inlet.open(upstream, frames.Welcome(frames.VERSION, named(name), incarnation, 1), self.now)

    def on_opened(self, name: str, **more: Any) -> None:
        self.on_welcome(name, **more)
        self.on_turn(self.now)
        self._came.clear()

    def on_parcel(
        self, name: str, sequence: int, *runs: Sequence[int], attempt: int = 1, size: int = 0, junk: bytes = b""
    ) -> None:
        bodies = [encoded(run, size) for run in runs]
        rows = [[len(run), len(body), run[0], attempt, 0] for run, body in zip(runs, bodies, strict=True)]
        arrived = self.counts.received + self.counts.duplicates
        self._accept(name, frames.Parcel(named(name), sequence, rows), b"".join(bodies) + junk)
        if self.counts.received + self.counts.duplicates > arrived:
            producer = self.producers[name]
            producer.sequence = sequence
            producer.sent_messages += sum(map(len, runs))
            producer.sent_bytes += sum(map(len, bodies))

    def on_end(self, name: str, sequence: int) -> None:
        self._accept(name, frames.Parcel(named(name), sequence, []), b"")
        self.producers[name].sequence = sequence

    def _accept(self, name: str, frame: frames.Parcel, body: bytes) -> None:
        if not self.inlet.accept(named(name), frame, body, self.now):
            self._give(gap(name))

    def on_confirm(self, name: str, **more: int) -> None:
        """Of all that was sent and of the last statement, unless the line says otherwise."""
        producer = self.producers[name]
        session = producer.upstream.session
        assert session is not None and session.id == named(name)
        fields = {
            "number": producer.statement.number if producer.statement else 0,
            "sequence": producer.sequence,
            "sent_messages": producer.sent_messages,
            "sent_bytes": producer.sent_bytes,
            "lowest": 1,
            "need_bytes": 0,
        }
        self.inlet.confirmed(session, frames.Confirm(named(name), **fields | more))

    def on_session_lost(self, name: str) -> None:
        self.inlet.close(self.producers[name].upstream)

    # -- time

    def on_turn(self, now: float) -> None:
        self.now = now
        names = {
            one.upstream: name for name, one in self.producers.items()
        }  # of one upstream, the last session is open
        for upstream, said in self.inlet.statements(now):
            self.producers[names[upstream]].statement = said
            self._give(statement(names[upstream], **asdict(said)))

    def on_heartbeat(self, now: float | None = None) -> None:
        now = self.now if now is None else now
        self.inlet.heartbeat(now)
        self.on_turn(now)

    # -- the stage's work

    def on_take(self, messages: int, size: int = MIB) -> None:
        pieces = self.inlet.take(messages, size)
        self.in_process += pieces
        self._give(taken(*(number for piece in pieces for number in numbers_of(piece))))

    def on_release(self, *numbers: int) -> None:
        for piece in _pieces_of(self.in_process, numbers):
            self.release_piece(piece)

    def on_finish(self, *numbers: int) -> None:
        for piece in _pieces_of(self.released, numbers):
            self.finish_piece(piece)

    def on_done(self, *numbers: int) -> None:
        self.on_release(*numbers)
        self.on_finish(*numbers)

    def release_piece(self, piece: Slice) -> None:
        self.in_process.remove(piece)
        self.released.append(piece)
        self.counts.in_process -= piece.count
        self.counts.completed += piece.count
        self.inlet.release(piece)

    def finish_piece(self, piece: Slice) -> None:
        self.released.remove(piece)
        piece.finish()

    def on_leave(self) -> None:
        self.inlet.leaving = True

    def on_hand_back(self) -> None:
        self.inlet.hand_back(self.now)


def numbers_of(piece: Slice) -> list[int]:
    return list(map(int, piece.ids()))


def instance_of(piece: Slice) -> int:
    """Of the upstream stage, which sent it."""
    return piece.delivery.producer.instance


def _pieces_of(pieces: Sequence[Slice], numbers: Sequence[int]) -> list[Slice]:
    """The pieces that these messages make up; of two that have the same number, the one taken first."""
    left, found = list(numbers), []
    for piece in pieces:
        if left and set(numbers_of(piece)) <= set(left):
            left = [number for number in left if number not in numbers_of(piece)]
            found.append(piece)
    assert not left, f"no pieces of just these messages were taken: {left}"
    return found


# ---- the producer's end


class Inputs:
    """What the outputs of these numbers were made from. `give` hears which of them are finished."""

    def __init__(self, numbers: Sequence[int], give: Callable[[Line], None]) -> None:
        self._numbers = numbers
        self._give = give

    @property
    def count(self) -> int:
        return len(self._numbers)

    def part(self, start: int, stop: int) -> Inputs:
        return Inputs(self._numbers[start:stop], self._give)

    def finish(self) -> None:
        self._give(finished(*self._numbers))


class ProducerEnd(LinkEnd):
    """An outlet with consumers in session: by the session's name, how many messages each may be sent."""

    policy = LinkPolicy(parcel_messages=8, parcel_bytes=400)

    def __init__(self, **limits: int) -> None:
        super().__init__()
        self.outlet = Outlet("", "c", self.policy)
        self.sessions: dict[str, OutletSession] = {}
        for session, limit in limits.items():
            self.handle(opened(session, limit_messages=limit))

    def answer(self, question: Line) -> Line | None:
        if question.kind != "confirms":
            return super().answer(question)
        [name] = question.values
        return confirms(name, **asdict(self.sessions[name].confirm(self.outlet.lowest)))

    def look(self, name: str = "") -> dict[str, Any]:
        if name:
            session = self.sessions[name]
            return {
                "need_bytes": session.need_bytes,
                "need_unsaid": session.need_unsaid(),
                "ended": session.ended,
                "sequence": session.sequence,
                "sent": session.sent_messages,
                "sent_bytes": session.sent_bytes,
                "limit_messages": session.limit_messages,
                "limit_bytes": session.limit_bytes,
            }
        return {
            "unsent": self.outlet.unsent_messages,
            "unsent_bytes": self.outlet.unsent_bytes,
            "in_flight": self.outlet.in_flight_messages,
            "in_flight_bytes": self.outlet.in_flight_bytes,
            "acked": self.outlet.acked,
            "redelivered": self.outlet.redelivered,
            "lowest": self.outlet.lowest,
            "end_acked": self.outlet.end_acked,
            "suspects": bool(self.outlet._suspicions),
        }

    def off(self) -> int:
        return self.outlet.off()

    @property
    def unsent_sections(self) -> list[section.Section]:
        return list(self.outlet._unsent)

    @property
    def in_flight_sections(self) -> list[section.Section]:
        flights = [flight for session in self.outlet.sessions.values() for flight in session.flights.values()]
        return [one for flight in flights for _, one in flight.sections]

    # -- frames

    def on_hello(self, name: str, codec: Codec = "cbor") -> None:
        instance = len(self.outlet.sessions) + 1
        said = frames.Hello(frames.VERSION, "p", "c", instance, name, SECRET, "", "u", "inbox", 1, 100, "", [])
        session = OutletSession(named(name), said, b"route", 0.0, codec)
        self.sessions[name] = session
        self.outlet.open(session)

    def on_statement(self, name: str, now: float = NOW, **more: Any) -> None:
        """All fields that are not named are as they were, and all that was sent has arrived."""
        session = self.sessions[name]
        fields: dict[str, Any] = {
            "session": session.id,
            "number": session.statement_number + 1,
            "limit_messages": session.limit_messages,
            "limit_bytes": session.limit_bytes or UNLIMITED_BYTES,
            "received": session.sequence,
            "released": session.released,
            "floor": session.floor,
            "ranges": [],
            "returned": [],
            "finished": [],
            "rate": session.rate or FAST,
            "reply": False,
            "leaving": False,
            "seen_stopped": False,
        }
        self.outlet.read_statement(session, frames.Statement(**fields | more), now)

    # -- the session

    def on_opened(self, name: str, limit_messages: int, codec: Codec = "cbor") -> None:
        self.on_hello(name, codec)
        self.on_connected(name)
        self.on_statement(name, limit_messages=limit_messages)

    def on_connected(self, name: str) -> None:
        self.outlet.ready(self.sessions[name])

    def on_session_lost(self, name: str) -> None:
        self.outlet.close(self.sessions[name])

    def on_suspect(self, *rows: list[int]) -> None:
        self.outlet.suspect(list(rows))

    # -- the stage's work

    def on_offer(self, count: int, size: int = 0, each: bool = False, codec: Codec = "cbor") -> None:
        """Messages made from as many inputs: all of them from all, or, if `each`, one from one."""
        numbers = range(self.outlet.produced + 1, self.outlet.produced + 1 + count)
        inputs = Inputs(numbers, self._give)
        derivation = EachDerivation([inputs]) if each else Derivation([inputs])
        body = encoded(numbers, size, codec)
        self.outlet.offer(Chunk("", count, body, range(count) if each else None), derivation)
        if isinstance(derivation, EachDerivation):
            derivation.close_but(())
        else:
            derivation.close()

    def on_send(self, now: float = NOW) -> None:
        for sent in self.outlet.sendable(now):
            self._give(self._sent(self.outlet.sessions[sent.session], sent.header, sent.body))

    def _sent(self, session: OutletSession, header: bytes, body: bytes) -> Line:
        """The parcel as a line. What its header says of its body must be so."""
        frame = frames.read(header)
        assert isinstance(frame, frames.Parcel)
        assert frame.session == session.id
        runs, codecs, at = [], [], 0
        for count, size, first, _, _ in frame.sections:
            codecs.append(codec_of(body[at:]))
            runs.append(list(range(first, first + count)))
            assert section.decode(body[at : at + size], count)[0] == list(map(str, runs[-1]))
            at += size
        assert at == len(body)
        assert session.codec == "msgpack" or set(codecs) == {"cbor"}, "nobody is sent what it does not read"
        _, _, _, attempts, suspicions = map(list, zip(*frame.sections, strict=True))
        fields = {"attempt": _one(attempts), "suspicion": _one(suspicions), "codec": _one(codecs)}
        return Line("parcel", (session.hello.incarnation, frame.sequence, *runs), fields)

    def on_send_ends(self) -> None:
        for sent in self.outlet.ends(NOW):
            session, frame = self.outlet.sessions[sent.session], frames.read(sent.header)
            assert (
                isinstance(frame, frames.Parcel) and frame.is_end and frame.session == session.id and sent.body == b""
            )
            self._give(end(session.hello.incarnation, frame.sequence))


def _one(values: list[Any]) -> Any:
    """The value that all sections have, or the value of each."""
    return values[0] if len(set(values)) == 1 else values
