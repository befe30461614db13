from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from session_names import SECRET, named

from zpipe.core.downstream.outlet import Outlet
from zpipe.core.downstream.outlet_session import OutletSession
from zpipe.core.ledger import Derivation, EachDerivation
from zpipe.core.policy import LinkPolicy
from zpipe.core.wire import frames, section
from zpipe.core.work.task import Chunk

POLICY = LinkPolicy(parcel_messages=8, parcel_bytes=400)
BIG = 1 << 40
FAST = 1e9
"""So fast a consumer is always about to run dry: it is sent whatever is there."""


class Share:
    finished = 0

    def finish(self) -> None:
        self.finished += 1


def body(first: int, count: int, size: int = 0) -> bytes:
    ids = [str(n) for n in range(first, first + count)]
    return section.encode(ids, [0.0] * count, ["x" * size] * count, None)


def offer(outlet: Outlet, count: int, size: int = 0) -> Share:
    share = Share()
    derivation = Derivation([share])
    outlet.offer(Chunk("", count, body(outlet.produced + 1, count, size)), derivation)
    derivation.close()
    return share


def open_session(outlet: Outlet, name: str, ready: bool = True) -> OutletSession:
    hello = frames.Hello(1, "p", "c", len(outlet.sessions) + 1, name, SECRET, "", "u", "inbox", 1, 100, "", [])
    session = OutletSession(named(name), hello, b"route", 0.0)
    outlet.sessions[session.id] = session
    session.ready = ready
    return session


def state(outlet: Outlet, session: OutletSession, messages: int, size: int = BIG, **more: Any) -> None:
    """A statement with these limits, all else as it was or as `more` says."""
    fields: dict[str, Any] = {
        "session": session.id,
        "number": session.statement_number + 1,
        "limit_messages": messages,
        "limit_bytes": size,
        "received": session.sequence,
        "released": session.released,
        "floor": 0,
        "ranges": [],
        "returned": [],
        "finished": [],
        "rate": FAST,
        "reply": False,
        "leaving": False,
        "seen_stopped": False,
        **more,
    }
    outlet.read_statement(session, frames.Statement(**fields), 1.0)
    assert outlet.off() == 0


def send(outlet: Outlet) -> list[tuple[str, int, list[str], list[int]]]:
    """(session, sequence, ids, attempts) of each parcel that goes out."""
    sent = []
    for session, header, encoded in outlet.sendable():
        parcel = frames.read(header)
        assert isinstance(parcel, frames.Parcel)
        assert parcel.session == session.id
        assert sum(row[1] for row in parcel.sections) == len(encoded)
        ids: list[str] = []
        attempts: list[int] = []
        at = 0
        for count, size, first, attempt, _ in parcel.sections:
            ids += section.decode(encoded[at : at + size], count)[0]
            assert ids[-count:] == [str(n) for n in range(first, first + count)]
            attempts += [attempt] * count
            at += size
        sent.append((session.hello.incarnation, parcel.sequence, ids, attempts))
    assert outlet.off() == 0
    return sent


def numbers(*ranges: tuple[int, int]) -> list[str]:
    return [str(n) for a, b in ranges for n in range(a, b)]


def make(*limits: int) -> tuple[Outlet, list[OutletSession]]:
    outlet = Outlet("", "c", POLICY)
    sessions = [open_session(outlet, f"s{n}") for n in range(len(limits))]
    for session, limit in zip(sessions, limits, strict=True):
        state(outlet, session, limit)
    return outlet, sessions


# ---- sending


def test_nothing_goes_without_consumer_readiness_or_credit() -> None:
    outlet = Outlet("", "c", POLICY)
    offer(outlet, 3)
    assert send(outlet) == []
    session = open_session(outlet, "s", ready=False)
    state(outlet, session, 5)
    assert send(outlet) == []
    session.ready = True
    state(outlet, session, 5, leaving=True)
    assert send(outlet) == []
    state(outlet, session, 0)
    assert send(outlet) == []
    state(outlet, session, 1)
    assert send(outlet) == [("s", 1, ["1"], [1])]


@pytest.mark.parametrize("limit", range(1, 12))
def test_message_credit_is_kept_exactly(limit: int) -> None:
    outlet, [session] = make(limit)
    offer(outlet, 10)
    assert sum(len(ids) for _, _, ids, _ in send(outlet)) == min(limit, 10)
    assert session.sent_messages == min(limit, 10)
    assert send(outlet) == []
    state(outlet, session, 10)
    send(outlet)
    assert session.sent_messages == 10 and outlet.unsent_messages == 0


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_byte_credit_is_kept_exactly(extra: int) -> None:
    outlet = Outlet("", "c", POLICY)
    session = open_session(outlet, "s")
    size = len(body(1, 1, 50))
    state(outlet, session, 10, size + extra)
    offer(outlet, 1, 50)
    assert len(send(outlet)) == (extra >= 0)
    assert session.need_bytes == (0 if extra >= 0 else size)
    assert session.need_unsaid() == (extra < 0)
    if extra < 0:
        assert session.confirm(outlet.lowest).need_bytes == size
        assert not session.need_unsaid()
        state(outlet, session, 10, size)
        assert len(send(outlet)) == 1
        assert session.confirm(outlet.lowest).need_bytes == 0


def test_a_section_over_the_byte_credit_is_cut_by_its_true_size() -> None:
    for room in range(20, 400, 7):
        outlet = Outlet("", "c", POLICY)
        session = open_session(outlet, "s")
        state(outlet, session, 100, room)
        offer(outlet, 8, 30)
        ids = [id for _, _, ids, _ in send(outlet) for id in ids]
        assert ids == numbers((1, 1 + len(ids)))
        assert session.sent_bytes <= room
        assert len(ids) < 8 or room >= len(body(1, 8, 30))


def test_parcels_are_limited_and_a_large_message_travels_alone() -> None:
    outlet, _ = make(1000)
    offer(outlet, 1, 1000)
    for _ in range(20):
        offer(outlet, 1, 10)
    offer(outlet, 3, 300)
    counts = [len(ids) for _, _, ids, _ in send(outlet)]
    assert counts[0] == 1
    assert max(counts) <= POLICY.parcel_messages
    assert sum(counts) == 24


def test_a_short_backlog_is_shared_among_idle_consumers() -> None:
    outlet, sessions = make(100, 100, 100)
    offer(outlet, 6)
    send(outlet)
    assert [session.sent_messages for session in sessions] == [2, 2, 2]


def test_the_consumer_that_would_come_to_it_first_gets_it() -> None:
    outlet, [fast, slow] = make(100, 100)
    state(outlet, fast, 100, rate=1e7)
    state(outlet, slow, 100, rate=1e6)
    for _ in range(55):
        offer(outlet, 1)
        send(outlet)
    assert 48 <= fast.sent_messages <= 51
    state(outlet, slow, 100, rate=1e6, released=slow.sent_messages)
    offer(outlet, 1)
    assert [s for s, *_ in send(outlet)] == ["s1"]


@pytest.mark.parametrize("rate", [0.0, 100.0])
def test_under_load_a_parcel_waits_until_it_is_worth_its_overhead(rate: float) -> None:
    outlet, [session] = make(16)
    state(outlet, session, 16, rate=rate)
    offer(outlet, 2)
    assert len(send(outlet)) == 1, "idle: at once"
    offer(outlet, 3)
    assert send(outlet) == [], "a quarter of the window is not there yet"
    offer(outlet, 1)
    assert len(send(outlet)) == 1
    offer(outlet, 1)
    state(outlet, session, 16, rate=rate, released=6)
    assert len(send(outlet)) == 1, "idle again"


@pytest.mark.parametrize("rate", [0.0, 100.0])
def test_whatever_is_there_goes_to_a_consumer_that_has_received_everything(rate: float) -> None:
    outlet, [session] = make(100)
    state(outlet, session, 100, rate=rate)
    offer(outlet, 3)
    assert len(send(outlet)) == 1
    offer(outlet, 1)
    assert send(outlet) == [], "on its way, and work is left there"
    state(outlet, session, 100, rate=rate, received=0)
    assert send(outlet) == []
    state(outlet, session, 100, rate=rate, received=1)
    assert len(send(outlet)) == 1, "three are still held there, but nothing is on its way"


def test_whatever_is_there_goes_to_a_consumer_that_is_about_to_run_dry() -> None:
    outlet, [session] = make(100)
    for rate, sent in ((2000.0, False), (10_000.0, True)):
        state(outlet, session, 100, rate=rate, received=session.sequence)
        offer(outlet, 3)
        send(outlet)
        state(outlet, session, 100, rate=rate, received=session.sequence - 1, released=session.sent_messages - 3)
        offer(outlet, 1)
        assert bool(send(outlet)) == sent


def test_every_consumer_is_tried_for_a_message_s_bytes() -> None:
    outlet = Outlet("", "c", POLICY)
    idle, busy = open_session(outlet, "idle"), open_session(outlet, "busy")
    state(outlet, busy, 10)
    offer(outlet, 1)
    assert [s for s, *_ in send(outlet)] == ["busy"]
    state(outlet, idle, 10, 30)
    offer(outlet, 1, 200)
    assert [s for s, *_ in send(outlet)] == ["busy"]
    state(outlet, busy, 10, 30)
    offer(outlet, 1, 200)
    size = len(body(3, 1, 200))
    assert send(outlet) == [] and (idle.need_bytes, busy.need_bytes) == (size, size)
    state(outlet, busy, 10, 10_000)
    assert [s for s, *_ in send(outlet)] == ["busy"]
    assert idle.need_bytes == 0, "what it was needed for is gone"


@pytest.mark.parametrize("count", [1, 8])
def test_a_producer_shut_out_says_what_one_message_needs(count: int) -> None:
    """No credit for a single message, and nothing under way that would bring some."""
    outlet, [session] = make(0)
    offer(outlet, count, 30)
    assert send(outlet) == []
    assert session.need_unsaid() and 0 < session.need_bytes <= len(body(1, 1, 30))
    session.confirm(outlet.lowest)
    assert not session.need_unsaid()
    state(outlet, session, 1)
    assert session.confirm(outlet.lowest).need_bytes > 0, "said until it is sent"
    assert len(send(outlet)) == 1
    assert session.need_bytes == 0
    if count > 1:
        assert send(outlet) == [] and session.need_bytes == 0, "one is under way: its release brings credit"
        state(outlet, session, 1, released=1)
        assert send(outlet) == [] and session.need_bytes > 0


# ---- acks


def test_acks_by_floor_and_ranges_in_any_order_and_twice() -> None:
    outlet, [session] = make(100)
    shares = []
    for _ in range(6):
        shares.append(offer(outlet, 2))
        send(outlet)
    state(outlet, session, 100, ranges=[[3, 5]])
    assert [s.finished for s in shares] == [0, 0, 1, 1, 0, 0]
    assert outlet.lowest == 1
    state(outlet, session, 100, floor=1, ranges=[[3, 5], [6, 7]])
    assert [s.finished for s in shares] == [1, 0, 1, 1, 0, 1]
    assert outlet.lowest == 3
    state(outlet, session, 100, floor=6)
    state(outlet, session, 100, floor=6, ranges=[[7, 1 << 62]])
    assert [s.finished for s in shares] == [1] * 6
    assert outlet.acked == 12 and outlet.in_flight_messages == outlet.in_flight_bytes == 0
    assert outlet.lowest == 13


def test_an_old_statement_is_not_read() -> None:
    outlet, [session] = make(100)
    share = offer(outlet, 1)
    send(outlet)
    state(outlet, session, 5, number=1, floor=1)
    assert not share.finished and session.limit_messages == 100
    state(outlet, session, 5, number=9, floor=1)
    assert share.finished and session.limit_messages == 5


@pytest.mark.parametrize("ranges", [[[1, 2], [1, 2]], [[1, 3], [2, 4]]])
def test_ranges_that_overlap_do_no_harm(ranges: list[list[int]]) -> None:
    outlet, [session] = make(100)
    for _ in range(3):
        offer(outlet, 1)
        send(outlet)
    state(outlet, session, 100, ranges=ranges)


def test_an_ack_of_one_part_of_a_cut_section_does_not_settle_it() -> None:
    outlet, [session] = make(2)
    share = offer(outlet, 5)
    send(outlet)
    state(outlet, session, 5, floor=1)
    assert not share.finished
    send(outlet)
    state(outlet, session, 5, floor=2)
    assert share.finished == 1


def test_a_parcel_finished_in_part_settles_what_was_made_of_each() -> None:
    outlet, [session] = make(5)
    shares = [Share() for _ in range(5)]

    class Inputs:
        count = 5

        def finish(self) -> None: ...

        def part(self, start: int, stop: int) -> Share:
            for share in shares[start:stop]:
                share.finish()
            return Share()

    each = EachDerivation([Inputs()])
    outlet.offer(Chunk("", 5, body(1, 5), range(5)), each)
    each.close_but(())
    send(outlet)
    for _ in range(2):  # a row that comes twice changes nothing
        state(outlet, session, 5, finished=[[1, 0, 1], [1, 2, 4]])
        assert [s.finished for s in shares] == [1, 0, 1, 1, 0]
        assert (outlet.acked, outlet.in_flight_messages) == (3, 2)
    outlet.close(session)
    again = open_session(outlet, "again")
    state(outlet, again, 5)
    assert send(outlet) == [("again", 1, ["2", "5"], [2, 2])]
    state(outlet, again, 5, floor=1)
    assert [s.finished for s in shares] == [1] * 5 and outlet.acked == 5


def test_finished_rows_that_are_lies_do_no_harm() -> None:
    outlet, [session] = make(3)
    offer(outlet, 3)
    send(outlet)
    state(outlet, session, 3, finished=[[1, 3, 9], [2, 0, 1], [0, 0, 1], [1, 2, 2], [1, 2, 1]])
    assert outlet.acked == 0 and outlet.in_flight_messages == 3
    state(outlet, session, 3, finished=[[1, 0, 1 << 62]])
    assert outlet.acked == 3


# ---- suspects


def test_suspects_travel_alone_and_say_how_much_they_are_suspected() -> None:
    outlet, [session] = make(100)
    offer(outlet, 6)
    send(outlet)
    outlet.close(session)
    outlet.suspect([[2, 4, 0], [6, 7, 1], [7, 99, 1]])
    state(outlet, open_session(outlet, "next"), 100)
    [(_, header, _)] = outlet.sendable()
    parcel = frames.read(header)
    assert isinstance(parcel, frames.Parcel)
    assert [[row[2], row[0], row[4]] for row in parcel.sections] == [
        [1, 1, 0],
        [2, 1, 1],
        [3, 1, 1],
        [4, 2, 0],
        [6, 1, 2],
    ]


def test_suspicion_grows_and_ends_with_the_ack() -> None:
    outlet, sessions = make(100)
    offer(outlet, 3)
    seen = []
    for n in range(3):
        send(outlet)
        outlet.close(sessions[0])
        outlet.suspect([[2, 3, n]])  # first in company, then alone
        seen.append([s.suspicion for s in outlet._unsent])
        sessions = [open_session(outlet, f"again{n}")]
        state(outlet, sessions[0], 100)
    assert seen == [[0, 1, 0], [0, 2, 0], [0, 3, 0]]
    send(outlet)
    state(outlet, sessions[0], 100, floor=1)
    outlet.suspect([[2, 3, 1]])
    assert not outlet._suspects


def test_a_suspect_in_flight_to_a_sibling_is_isolated_when_it_comes_back() -> None:
    outlet, [one, other] = make(100, 0)
    offer(outlet, 4)
    send(outlet)
    outlet.close(one)
    state(outlet, other, 100)
    send(outlet)
    outlet.suspect([[3, 4, 0]])
    outlet.close(other)
    assert [(s.first, s.count, s.suspicion) for s in outlet._unsent] == [(1, 2, 0), (3, 1, 1), (4, 1, 0)]


# ---- the end of a session


def test_redelivery_keeps_the_order_and_counts_the_attempt() -> None:
    outlet, [session] = make(7)
    for _ in range(5):
        offer(outlet, 2)
        send(outlet)
    state(outlet, session, 7, floor=1)
    outlet.close(session)
    assert outlet.off() == 0 and outlet.redelivered == 5 and outlet.in_flight_bytes == 0
    other = open_session(outlet, "other")
    state(outlet, other, 100)
    sent = send(outlet)
    assert [id for _, _, ids, _ in sent for id in ids] == numbers((3, 11))
    assert [a for *_, attempts in sent for a in attempts] == [2] * 5 + [1] * 3
    outlet.close(other)
    third = open_session(outlet, "third")
    state(outlet, third, 100)
    assert [a for *_, attempts in send(outlet) for a in attempts] == [3] * 5 + [2] * 3


def test_returned_messages_go_to_a_sibling_once_and_keep_their_attempt() -> None:
    outlet, [leaver] = make(6)
    share = offer(outlet, 6)
    send(outlet)
    sibling = open_session(outlet, "sibling")
    state(outlet, sibling, 100)
    for _ in range(3):
        state(outlet, leaver, 6, leaving=True, returned=[[1, 2, 4], [1, 5, 6]])
    sent = send(outlet)
    assert sorted(int(id) for _, _, ids, _ in sent for id in ids) == [3, 4, 6]
    assert [a for *_, attempts in sent for a in attempts] == [1, 1, 1]
    assert outlet.in_flight_messages == 6
    state(outlet, leaver, 6, leaving=True, floor=1, returned=[[1, 2, 4], [1, 5, 6]])
    assert outlet.acked == 3 and not share.finished
    state(outlet, sibling, 100, floor=len(sent))
    assert outlet.acked == 6 and share.finished == 1


def test_what_is_returned_and_acked_by_one_statement_is_not_acked() -> None:
    outlet, [leaver] = make(6)
    share = offer(outlet, 3)
    send(outlet)
    state(outlet, leaver, 6, leaving=True, returned=[[1, 0, 3]], floor=1)
    assert outlet.acked == 0 and outlet.unsent_messages == 3 and not share.finished


def test_returned_runs_keep_their_order() -> None:
    outlet, [leaver] = make(6)
    for _ in range(3):
        offer(outlet, 2)
        send(outlet)
    state(outlet, leaver, 6, leaving=True, returned=[[1, 1, 2], [2, 0, 2], [3, 0, 2]])
    state(outlet, open_session(outlet, "sibling"), 100)
    assert [id for _, _, ids, _ in send(outlet) for id in ids] == numbers((2, 7))


@pytest.mark.parametrize("row", [[1, 0, 1 << 62], [1, 9, 12], [1, 3, 1], [7, 0, 1], [1, 2, 2]])
def test_returned_rows_that_are_lies_do_no_harm(row: list[int]) -> None:
    outlet, [session] = make(6)
    offer(outlet, 3)
    send(outlet)
    state(outlet, session, 6, returned=[row])
    assert outlet.unsent_messages in (0, 3)
    state(outlet, session, 6, floor=1)
    assert outlet.in_flight_messages == 0


# ---- the end of the stream


def test_the_end_is_said_after_the_last_parcel_and_again_after_a_redelivery() -> None:
    outlet, [session] = make(10)
    assert [frames.read(h) for _, h, _ in outlet.ends()] == [frames.End(named("s0"), 1)]
    assert list(outlet.ends()) == []
    assert not outlet.end_acked
    state(outlet, session, 10, floor=1)
    assert outlet.end_acked and session.ended
    offer(outlet, 1)
    send(outlet)
    assert not session.ended
    assert [frames.read(h) for _, h, _ in outlet.ends()] == [frames.End(named("s0"), 3)]
    outlet.close(session)
    assert outlet.unsent_messages == 1 and outlet.off() == 0


# ---- whatever happens


class Links(RuleBasedStateMachine):
    """A model of where each message is, and whose attempt it is."""

    @initialize()
    def begin(self) -> None:
        self.outlet = Outlet("", "c", POLICY)
        self.sessions: list[OutletSession] = []
        self.shares: list[tuple[range, Share]] = []
        self.unsent: set[int] = set()
        self.flights: dict[tuple[bytes, int], list[int]] = {}
        self.here: dict[tuple[bytes, int], set[int]] = {}
        self.returns: dict[bytes, list[list[int]]] = {}
        self.attempts: dict[int, int] = {}
        self.acked: set[int] = set()
        self.opened = 0

    @rule(count=st.integers(1, 20), size=st.sampled_from([0, 5, 90, 500]))
    def offer(self, count: int, size: int) -> None:
        first = self.outlet.produced + 1
        self.shares.append((range(first, first + count), offer(self.outlet, count, size)))
        for n in range(first, first + count):
            self.unsent.add(n)
            self.attempts[n] = 1

    @precondition(lambda self: len(self.sessions) < 3)
    @rule()
    def open(self) -> None:
        self.opened += 1
        session = open_session(self.outlet, f"s{self.opened}")
        self.returns[session.id] = []
        self.sessions.append(session)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), messages=st.integers(-3, 20), size=st.integers(-50, 900), ack=st.integers(0, 3))
    def state(self, data: st.DataObject, messages: int, size: int, ack: int) -> None:
        session = data.draw(st.sampled_from(self.sessions))
        mine = sorted(sequence for id, sequence in self.flights if id == session.id)
        if mine and data.draw(st.booleans()):
            sequence = data.draw(st.sampled_from(mine))
            length = len(self.flights[session.id, sequence])
            start = data.draw(st.integers(0, length - 1))
            stop = data.draw(st.integers(start + 1, length))
            told = set(self.flights[session.id, sequence][start:stop]) <= self.here[session.id, sequence]
            if told and not any(s == sequence and a < stop and start < b for s, a, b in self.returns[session.id]):
                self.returns[session.id].append([sequence, start, stop])
                for n in self.flights[session.id, sequence][start:stop]:
                    self.here[session.id, sequence].discard(n)
                    self.unsent.add(n)
        finished = []
        if mine and data.draw(st.booleans()):
            sequence = data.draw(st.sampled_from(mine))
            length = len(self.flights[session.id, sequence])
            start = data.draw(st.integers(0, length - 1))
            stop = data.draw(st.integers(start + 1, length))
            # A consumer never says that a message it hands back is finished.
            if not any(s == sequence and a < stop and start < b for s, a, b in self.returns[session.id]):
                finished.append([sequence, start, stop])
                done = set(self.flights[session.id, sequence][start:stop]) & self.here[session.id, sequence]
                self.here[session.id, sequence] -= done
                self.acked |= done
        acks = sorted(set(data.draw(st.lists(st.sampled_from(mine), max_size=ack)))) if mine else []
        for sequence in acks:
            self.acked |= self.here.pop((session.id, sequence))
            del self.flights[session.id, sequence]
        floor = mine[0] - 1 if mine else session.sequence
        while floor + 1 <= session.sequence and (session.id, floor + 1) not in self.flights:
            floor += 1
        ranges = [[n, n + 1] for n in range(floor + 1, session.sequence + 1) if (session.id, n) not in self.flights]
        state(
            self.outlet,
            session,
            max(0, session.sent_messages + messages),
            max(0, session.sent_bytes + size),
            floor=floor,
            ranges=ranges,
            returned=[list(row) for row in self.returns[session.id]],
            finished=finished,
        )

    @precondition(lambda self: self.outlet.produced)
    @rule(data=st.data(), alone=st.integers(0, 1))
    def suspect(self, data: st.DataObject, alone: int) -> None:
        number = data.draw(st.integers(1, self.outlet.produced + 2))
        self.outlet.suspect([[number, number + 1, alone]])
        for piece in self.outlet._unsent:
            if piece.first == number:
                assert piece.count == 1 and piece.suspicion >= 1 + alone

    @rule()
    def send(self) -> None:
        before = {s.id: (s.sent_messages, s.sent_bytes) for s in self.sessions}
        for id, sequence, ids, attempts in send(self.outlet):
            sent = [int(n) for n in ids]
            assert set(sent) <= self.unsent
            assert attempts == [self.attempts[n] for n in sent]
            self.unsent -= set(sent)
            self.flights[named(id), sequence] = sent
            self.here[named(id), sequence] = set(sent)
        for session in self.sessions:
            if (session.sent_messages, session.sent_bytes) != before[session.id]:
                assert session.sent_messages <= session.limit_messages
                assert session.sent_bytes <= session.limit_bytes

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self.sessions))
        self.sessions.remove(session)
        self.outlet.close(session)
        for key in [key for key in self.flights if key[0] == session.id]:
            for n in self.here.pop(key):
                self.attempts[n] += 1
                self.unsent.add(n)
            del self.flights[key]

    @invariant()
    def adds_up(self) -> None:
        outlet = self.outlet
        flying = set().union(*self.here.values()) if self.here else set()
        assert outlet.off() == 0
        assert outlet.unsent_messages == len(self.unsent)
        assert outlet.in_flight_messages == len(flying)
        assert outlet.acked == len(self.acked)
        assert outlet.lowest == min(self.unsent | flying, default=outlet.produced + 1)
        assert outlet.unsent_bytes == sum(s.size for s in outlet._unsent)
        assert outlet.in_flight_bytes == sum(
            s.size for session in self.sessions for f in session.flights.values() for _, s in f.sections
        )
        for messages, share in self.shares:
            assert share.finished == (set(messages) <= self.acked)


Links.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestLinks = Links.TestCase
