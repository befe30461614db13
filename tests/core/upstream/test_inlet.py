from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from session_names import SECRET, named

from zpipe.core.ledger import Counts
from zpipe.core.policy import Bound, LinkPolicy, StagePolicy
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.upstream.upstream import Upstream
from zpipe.core.upstream.upstreams import Identity, Upstreams
from zpipe.core.wire import frames, section
from zpipe.core.work.delivery import Slice
from zpipe.errors import PeerError


class Producer:
    """The other end of one session, that keeps to the credit it was stated."""

    def __init__(self, inlet: Inlet, upstream: Upstream, name: str, incarnation: str = "u1") -> None:
        self.inlet = inlet
        self.upstream = upstream
        self.id = named(name)
        self.sequence = 0
        self.sent_messages = 0
        self.sent_bytes = 0
        self.need_bytes = 0
        self.statement: frames.Statement | None = None
        inlet.open(upstream, frames.Welcome(1, self.id, incarnation, 1), 0.0)

    def parcel(self, *sections: tuple[int, int], attempt: int = 1, size: int = 0) -> tuple[frames.Parcel, bytes]:
        """`sections` are (first number, count)."""
        bodies, rows = [], []
        for first, count in sections:
            ids = [str(n) for n in range(first, first + count)]
            bodies.append(section.encode(ids, [0.0] * count, ["x" * size] * count, None))
            rows.append([count, len(bodies[-1]), first, attempt, 0])
        self.sequence += 1
        self.sent_messages += sum(row[0] for row in rows)
        self.sent_bytes += sum(row[1] for row in rows)
        return frames.Parcel(self.id, self.sequence, rows), b"".join(bodies)

    def send(self, *sections: tuple[int, int], attempt: int = 1, size: int = 0) -> bool:
        parcel, body = self.parcel(*sections, attempt=attempt, size=size)
        return self.inlet.accept(self.id, parcel, body, 0.0)

    def confirm(self, lowest: int = 1) -> None:
        session = self.upstream.session
        if session is not None and session.id == self.id:
            number = self.statement.number if self.statement else 0
            confirm = frames.Confirm(
                self.id, number, self.sequence, self.sent_messages, self.sent_bytes, lowest, self.need_bytes
            )
            self.inlet.confirmed(session, confirm, 0.0)


def make(bound: int = 100, bytes_: int = 1 << 20) -> tuple[Inlet, Counts, Upstream]:
    counts = Counts()
    inlet = Inlet(Bound(bound, bytes_), LinkPolicy(), counts)
    inlet.window = bound
    return inlet, counts, Upstream("up", "", 1)


def statement(inlet: Inlet, producer: Producer, now: float = 10.0) -> frames.Statement:
    """The newest, whether due or not."""
    inlet.heartbeat(now)
    for upstream, one in inlet.statements(now):
        if upstream is producer.upstream:
            producer.statement = one
    assert producer.statement is not None
    return producer.statement


def begin(inlet: Inlet, upstream: Upstream, name: str, incarnation: str = "u1") -> Producer:
    """A producer that has read its first statement."""
    producer = Producer(inlet, upstream, name, incarnation)
    statement(inlet, producer)
    return producer


def ids(pieces: list[Slice]) -> list[int]:
    return [int(id) for piece in pieces for id in piece.section.columns()[0][piece.start : piece.stop]]


def finish(inlet: Inlet, pieces: list[Slice], acked: bool = True, counts: Counts | None = None) -> None:
    for piece in pieces:
        if counts is not None:
            counts.in_process -= piece.count
            counts.completed += piece.count
        inlet.release(piece)
        if acked:
            piece.finish()


# ---- parcels


def test_a_parcel_is_queued_worked_on_and_acked() -> None:
    inlet, counts, upstream = make()
    producer = begin(inlet, upstream, "s")
    assert producer.send((1, 2), (3, 1))
    assert (counts.received, counts.queued, inlet.held_messages) == (3, 3, 3)
    assert inlet.queued_bytes == inlet.held_bytes == producer.sent_bytes
    assert (statement(inlet, producer).floor, statement(inlet, producer).received) == (0, 1)
    pieces = inlet.take(100, 1 << 20)
    assert ids(pieces) == [1, 2, 3] and (counts.queued, counts.in_process) == (0, 3)
    finish(inlet, pieces, acked=False)
    said = statement(inlet, producer)
    assert (said.released, said.floor) == (3, 0) and inlet.held_messages == inlet.held_bytes == 0
    assert inlet.unfinished
    for piece in pieces:
        piece.finish()
    assert statement(inlet, producer).floor == 1
    assert not inlet.unfinished


def test_acks_out_of_order_are_ranges() -> None:
    inlet, _, upstream = make()
    producer = begin(inlet, upstream, "s")
    for n in range(1, 7):
        producer.send((n, 1))
    pieces = inlet.take(100, 1 << 20)
    for n in (2, 3, 5):
        finish(inlet, [pieces[n]])
    said = statement(inlet, producer)
    assert (said.floor, said.ranges) == (0, [[3, 5], [6, 7]])
    finish(inlet, [pieces[0]])
    assert (said := statement(inlet, producer)).floor == 1 and said.ranges == [[3, 5], [6, 7]]
    finish(inlet, [pieces[1]])
    assert (said := statement(inlet, producer)).floor == 4 and said.ranges == [[6, 7]]
    finish(inlet, [pieces[4]])
    assert (said := statement(inlet, producer)).floor == 6 and said.ranges == []


def test_a_gap_is_false_a_copy_and_an_unknown_session_are_passed_over() -> None:
    inlet, counts, upstream = make()
    producer = begin(inlet, upstream, "s")
    first = producer.parcel((1, 1))
    second = producer.parcel((2, 1))
    assert not inlet.accept(named("s"), *second, 0.0)
    assert inlet.accept(named("s"), *first, 0.0)
    assert inlet.accept(named("s"), *first, 0.0)
    assert inlet.accept(named("other"), *second, 0.0)
    assert counts.received == 1
    assert inlet.accept(named("s"), *second, 0.0) and counts.received == 2


def test_a_malformed_parcel_changes_nothing() -> None:
    inlet, counts, upstream = make()
    producer = begin(inlet, upstream, "s")
    parcel, body = producer.parcel((1, 1))
    with pytest.raises(PeerError):
        inlet.accept(named("s"), parcel, body + b"\x00", 0.0)
    assert counts.received == 0 and inlet.held_messages == inlet.held_bytes == 0
    assert inlet.accept(named("s"), parcel, body, 0.0)


def test_an_end_is_acked_and_a_parcel_after_it_ends_the_end() -> None:
    inlet, _, upstream = make()
    producer = begin(inlet, upstream, "s")
    assert inlet.accept(named("s"), frames.End(named("s"), 1), b"", 0.0)
    assert upstream.flushed and statement(inlet, producer).floor == 1
    producer.sequence = 1
    assert producer.send((1, 1))
    assert not upstream.flushed
    assert inlet.accept(named("s"), frames.End(named("s"), 3), b"", 0.0)
    assert upstream.flushed and statement(inlet, producer).floor == 1


def test_a_producer_that_sends_more_than_it_may_is_a_peer_error() -> None:
    inlet, counts, upstream = make(bound=3)
    producer = begin(inlet, upstream, "s")
    for run, size in (((1, 50), 0), ((1, 4), 0), ((1, 1), 1 << 20)):
        parcel, body = producer.parcel(run, size=size)
        parcel.sequence = 1
        with pytest.raises(PeerError, match="credit"):
            inlet.accept(named("s"), parcel, body, 0.0)
        assert inlet.held_messages == counts.received == 0
    parcel, body = producer.parcel((1, 3))
    parcel.sequence = 1
    assert inlet.accept(named("s"), parcel, body, 0.0) and inlet.held_messages == 3


def test_what_was_sent_by_an_older_higher_limit_is_within_the_credit() -> None:
    inlet, _, upstream = make(bound=4)
    first = begin(inlet, upstream, "a")
    joiner = begin(inlet, Upstream("up", "", 2), "b")
    assert joiner.statement is not None and joiner.statement.limit_messages == 0
    joiner.need_bytes = 1
    joiner.confirm()
    parcel = first.parcel((1, 4))
    assert statement(inlet, first).limit_messages < 4
    assert inlet.accept(named("a"), *parcel, 0.0)


def test_a_reply_is_asked_for_until_what_asked_is_confirmed() -> None:
    inlet, _, upstream = make(bound=4)
    first = begin(inlet, upstream, "a")
    joiner = begin(inlet, Upstream("up", "", 2), "b")
    assert first.statement is not None and not first.statement.reply
    joiner.need_bytes = 1
    joiner.confirm()
    before = first.statement
    asked = statement(inlet, first)
    assert asked.reply and asked.limit_messages < before.limit_messages
    first.statement = before
    first.confirm()  # of the statement before: was under way
    assert statement(inlet, first).reply, "the first confirm was of an older statement"
    first.statement = asked
    first.confirm()
    assert not statement(inlet, first).reply
    assert statement(inlet, joiner).limit_messages >= 1


# ---- the queue


def test_taking_keeps_to_messages_and_bytes_but_takes_at_least_one() -> None:
    inlet, counts, upstream = make()
    producer = begin(inlet, upstream, "s")
    producer.send((1, 10), size=100)
    each = inlet.queued_bytes // 10
    assert ids(inlet.take(3, 1 << 20)) == [1, 2, 3]
    assert ids(inlet.take(9, 1)) == [4]
    assert sum(p.size for p in inlet.take(9, 2 * each + each // 2)) <= 2 * each + each // 2
    while inlet.queue:
        inlet.take(1, 1 << 20)
    assert inlet.queued_bytes == 0 and counts.queued == 0 and counts.in_process == 10
    assert inlet.take(5, 5) == []


def test_taking_over_several_sections_keeps_the_order() -> None:
    inlet, _, upstream = make()
    producer = begin(inlet, upstream, "s")
    for n in range(0, 12, 3):
        producer.send((n, 3))
    taken = []
    while inlet.queue:
        taken += ids(inlet.take(5, 1 << 20))
    assert taken == list(range(12))


# ---- a session that is over, and what comes again


def test_queued_messages_are_dropped_and_taken_anew() -> None:
    inlet, counts, upstream = make()
    begin(inlet, upstream, "a").send((1, 3))
    inlet.close(upstream)
    assert (counts.queued, counts.returned, inlet.held_messages, inlet.queued_bytes) == (0, 3, 0, 0)
    assert not inlet.unfinished and counts.off() == 0
    again = begin(inlet, upstream, "b")
    again.send((1, 3), attempt=2)
    assert (counts.queued, counts.received, counts.duplicates) == (3, 6, 0)
    finish(inlet, inlet.take(9, 1 << 20))
    assert statement(inlet, again).floor == 1


def test_what_is_in_process_is_not_started_again_and_acks_the_copy() -> None:
    inlet, counts, upstream = make()
    begin(inlet, upstream, "a").send((1, 3))
    pieces = inlet.take(2, 1 << 20)
    inlet.close(upstream)
    assert inlet.held_messages == 2 and inlet.unfinished
    again = begin(inlet, upstream, "b")
    again.send((1, 3), attempt=2)
    assert (counts.duplicates, counts.queued) == (2, 1)
    assert inlet.held_messages == 3
    rest = inlet.take(9, 1 << 20)
    assert ids(rest) == [3]
    finish(inlet, rest)
    assert statement(inlet, again).floor == 0
    finish(inlet, pieces)
    assert statement(inlet, again).floor == 1
    assert not inlet.unfinished and inlet.held_messages == inlet.held_bytes == 0


def test_what_is_finished_is_acked_at_once() -> None:
    inlet, counts, upstream = make()
    begin(inlet, upstream, "a").send((1, 3))
    finish(inlet, inlet.take(9, 1 << 20))
    inlet.close(upstream)
    again = begin(inlet, upstream, "b")
    again.send((1, 3), attempt=2)
    assert counts.duplicates == 3 and counts.queued == 0
    said = statement(inlet, again)
    assert (said.floor, said.released) == (1, 3)


def test_a_third_copy_and_the_second_both_wait_for_the_first() -> None:
    inlet, counts, upstream = make()
    begin(inlet, upstream, "a").send((1, 1))
    pieces = inlet.take(9, 1 << 20)
    for name in ("b", "c"):
        inlet.close(upstream)
        last = begin(inlet, upstream, name)
        last.send((1, 1), attempt=2)
    assert counts.duplicates == 2
    assert statement(inlet, last).floor == 0
    finish(inlet, pieces)
    assert statement(inlet, last).floor == 1
    assert not inlet.unfinished


def test_below_lowest_numbers_are_forgotten_and_a_new_incarnation_forgets_all() -> None:
    inlet, counts, upstream = make()
    first = begin(inlet, upstream, "a")
    first.send((1, 5))
    finish(inlet, inlet.take(9, 1 << 20))
    statement(inlet, first)
    first.confirm(lowest=4)
    assert list(upstream.accepted) == [(4, 6)]
    inlet.close(upstream)
    other = begin(inlet, upstream, "b", incarnation="u2")
    other.send((4, 2))
    assert counts.duplicates == 0 and counts.queued == 2


def test_the_same_number_of_another_incarnation_in_process_is_another_message() -> None:
    inlet, counts, upstream = make()
    begin(inlet, upstream, "a").send((1, 1))
    old = inlet.take(9, 1 << 20)
    inlet.close(upstream)
    new = begin(inlet, upstream, "b", incarnation="u2")
    new.send((1, 1))
    assert counts.duplicates == 0
    finish(inlet, old)
    assert statement(inlet, new).floor == 0


def test_the_same_number_of_another_outlet_is_another_message() -> None:
    """One upstream instance feeds this stage by two outlets, so two links with numbers of their own."""
    inlet, _, plain = make()
    errors = Upstream("up", "errors", 1)
    producers = [Producer(inlet, plain, "a1"), Producer(inlet, errors, "a2")]
    statement(inlet, producers[0])
    producers[0].send((1, 1))
    producers[1].send((1, 1))
    of_plain, of_errors = inlet.take(1, 1 << 20), inlet.take(1, 1 << 20)
    inlet.close(plain)
    inlet.close(errors)
    again = begin(inlet, errors, "b2")
    again.send((1, 1), attempt=2)
    finish(inlet, of_plain)  # message 1 of the other link
    assert statement(inlet, again).floor == 0, "acked while the message itself is still in process"
    finish(inlet, of_errors)
    assert statement(inlet, again).floor == 1


# ---- handing back


def test_unstarted_messages_are_handed_back_until_confirmed() -> None:
    inlet, counts, upstream = make()
    producer = begin(inlet, upstream, "s")
    producer.send((1, 4))
    producer.send((5, 2))
    started = inlet.take(1, 1 << 20)
    inlet.leaving = True
    inlet.hand_back(0.0)
    assert (counts.queued, counts.returned, counts.in_process) == (0, 5, 1)
    for _ in range(2):
        said = statement(inlet, producer)
        assert said.leaving and said.reply
        assert said.returned == [[1, 1, 4], [2, 0, 2]] and said.floor == 0 and said.ranges == []
    assert not inlet.all_confirmed
    producer.confirm()
    said = statement(inlet, producer)
    assert said.returned == [] and said.ranges == [[2, 3]]
    finish(inlet, started)
    assert statement(inlet, producer).floor == 2
    assert not inlet.unfinished and not inlet.all_confirmed
    producer.confirm()
    assert inlet.all_confirmed


def test_a_confirm_from_before_the_return_does_not_settle_it() -> None:
    inlet, _, upstream = make()
    producer = begin(inlet, upstream, "s")
    producer.send((1, 2))
    statement(inlet, producer)
    inlet.hand_back(0.0)
    producer.confirm()
    assert statement(inlet, producer).returned == [[1, 0, 2]]
    producer.confirm()
    assert statement(inlet, producer).floor == 1


def test_a_session_that_ends_while_handing_back_owes_nothing() -> None:
    inlet, counts, upstream = make()
    producer = begin(inlet, upstream, "s")
    producer.send((1, 2))
    inlet.hand_back(0.0)
    statement(inlet, producer)
    inlet.close(upstream)
    assert not inlet.unfinished and inlet.held_messages == inlet.held_bytes == 0 and counts.off() == 0


# ---- statements


def test_statements_go_when_due_and_not_before() -> None:
    inlet, _, upstream = make(bound=1000)
    producer = Producer(inlet, upstream, "s")
    assert [s.limit_messages for _, s in inlet.statements(0.0)] == [1000]
    assert list(inlet.statements(0.0)) == []
    producer.send((1, 1))
    finish(inlet, inlet.take(1, 1 << 20))
    assert list(inlet.statements(0.0)) == []
    delay = LinkPolicy().ack_delay_s
    assert inlet.next_statement_at() == pytest.approx(delay)
    assert [s.floor for _, s in inlet.statements(delay)] == [1]


def test_credit_that_runs_low_is_stated_at_once() -> None:
    inlet, _, upstream = make(bound=10)
    producer = Producer(inlet, upstream, "s")
    list(inlet.statements(0.0))
    producer.send((1, 9))
    for piece in inlet.take(9, 1 << 20):
        inlet.release(piece)
    assert [s.limit_messages for _, s in inlet.statements(0.0)] == [19]


def test_room_in_bytes_is_stated_at_once() -> None:
    inlet, _, upstream = make(bound=10, bytes_=100)
    producer = Producer(inlet, upstream, "s")
    producer.statement = next(inlet.statements(0.0))[1]
    producer.need_bytes = 250
    producer.confirm()
    assert [s.limit_bytes for _, s in inlet.statements(0.1)] == [250]


@pytest.mark.parametrize("need", [60, 100, 150])
def test_room_that_was_needed_is_stated_at_once_however_much_was_stated_before(need: int) -> None:
    inlet, _, upstream = make(bound=10, bytes_=200)
    producer = begin(inlet, upstream, "a")
    other = begin(inlet, Upstream("up", "", 2), "b")
    statement(inlet, producer)
    producer.need_bytes, other.need_bytes = 0, need
    for _ in range(4):  # no heartbeat in between
        other.confirm()
        producer.confirm()
        for upstream, said in inlet.statements(10.0):
            (producer if upstream is producer.upstream else other).statement = said
    assert other.statement is not None and other.statement.limit_bytes >= need


def test_a_need_said_before_what_has_arrived_meanwhile_is_over() -> None:
    """Confirms and parcels come by different sockets."""
    inlet, _, upstream = make(bound=10, bytes_=100)
    producer = begin(inlet, upstream, "s")
    producer.need_bytes = 250
    producer.confirm()
    statement(inlet, producer)
    early = frames.Confirm(named("s"), 1, 0, 0, 0, 1, 250)
    producer.send((1, 1), size=200)
    assert upstream.session is not None
    inlet.confirmed(upstream.session, early, 0.0)
    assert upstream.session.bytes.need == upstream.session.messages.need == 0


@pytest.mark.parametrize("producers", [2, 5])
def test_needs_in_both_units_are_met_for_one_producer_at_a_time(producers: int) -> None:
    inlet, _, _ = make(bound=1, bytes_=200)
    sizes = [20 + 30 * (n % 3) for n in range(producers)]
    lines = [begin(inlet, Upstream("up", "", n + 1), f"s{n}") for n in range(producers)]
    served = [0] * producers
    for turn in range(60 * producers):
        for n, line in enumerate(lines):
            said = statement(inlet, line)
            need = len(section.encode(["1"], [0.0], ["x" * sizes[n]], None)) + 2
            if said.limit_messages > line.sent_messages and said.limit_bytes >= line.sent_bytes + need:
                assert line.send((line.sequence + 1, 1), size=sizes[n])
                finish(inlet, inlet.take(1, 1 << 20))
                served[n] += 1
                sizes[n] = 20 + 30 * ((n + turn) % 3)
                line.need_bytes = 0
            else:
                line.need_bytes = max(line.need_bytes, need)
            line.confirm()
    assert min(served) >= 2


def test_leaving_grants_nothing_more() -> None:
    inlet, _, upstream = make(bound=10)
    producer = begin(inlet, upstream, "s")
    before = statement(inlet, producer).limit_messages
    producer.send((1, 5))
    inlet.leaving = True
    finish(inlet, inlet.take(9, 1 << 20))
    said = statement(inlet, producer)
    assert said.leaving and said.limit_messages == before


# ---- peers that lie


def intake() -> tuple[Upstreams, Inlet]:
    inlet, _, _ = make()
    made = Upstreams(Identity("p", "c", 1, "c1", "inbox"), SECRET, [("up", "")], inlet, StagePolicy())
    made.connected(("up", 1), 0.0)
    made.hellos(0.0)
    made.heard(("up", 1), frames.Welcome(1, named("s"), "u1", 1), 0.0)
    assert inlet.owner(named("s")) is not None
    return made, inlet


def test_a_state_that_is_none_is_a_peer_error() -> None:
    made, _ = intake()
    with pytest.raises(PeerError):
        announced = frames.write(frames.Announcement("p", "up", 1, "u1", "ASLEEP", False, False))
        made.heard(("up", 1), frames.read(announced), 0.0)


def test_a_confirm_of_a_statement_never_made_does_not_confirm_for_ever() -> None:
    inlet, _, upstream = make(bound=10)
    producer = begin(inlet, upstream, "s")
    assert upstream.session is not None
    for number in (upstream.session._number + 1, 1 << 62):
        with pytest.raises(PeerError, match="confirms"):
            inlet.confirmed(upstream.session, frames.Confirm(named("s"), number, 0, 0, 0, 1, 0), 0.0)
    assert not inlet.all_confirmed
    statement(inlet, producer)
    producer.confirm()
    assert inlet.all_confirmed


def test_a_producer_cannot_claim_to_have_sent_more_than_it_may() -> None:
    inlet, _, upstream = make(bound=10)
    begin(inlet, upstream, "s")
    assert upstream.session is not None
    with pytest.raises(PeerError, match="more than its credit"):
        inlet.confirmed(upstream.session, frames.Confirm(named("s"), 1, 0, 1 << 62, 0, 1, 0), 0.0)
    assert upstream.session.messages.ceiling == 10


@pytest.mark.parametrize("frame", [frames.End(named("s"), 1), frames.Request(1, "drain"), frames.Done(1, "RUNNING")])
def test_a_frame_that_has_no_business_there_is_a_peer_error(frame: Any) -> None:
    made, _ = intake()
    with pytest.raises(PeerError):
        made.heard(("up", 1), frame, 0.0)
    with pytest.raises(PeerError):
        made.parcel(frames.Request(1, "drain"), b"", 0.0)


def test_a_gap_and_a_malformed_parcel_begin_the_session_anew() -> None:
    for parcel, body in (
        (frames.Parcel(named("s"), 2, [[1, 1, 1, 1, 0]]), b"x"),
        (frames.Parcel(named("s"), 1, [[1, 2, 1, 1, 0]]), b"x"),
    ):
        made, inlet = intake()
        with contextlib.suppress(PeerError):
            made.parcel(parcel, body, 1.0)
        assert inlet.owner(named("s")) is None
        assert len(made.hellos(1.0)) == 1


# ---- whatever happens


class Sessions(RuleBasedStateMachine):
    """Two upstream instances that keep to their credit, workers that finish in any order, sessions that break."""

    bound = 8

    @initialize()
    def begin(self) -> None:
        self.inlet, self.counts, _ = make(self.bound, 1 << 20)
        self.opened = 0
        self.producers: list[Producer] = []
        self.unsent: list[list[int]] = []
        self.flying: list[dict[int, list[int]]] = []
        self.working: list[Slice] = []
        self.unacked: list[Slice] = []
        self.worked: list[tuple[int, int]] = []
        self.done: list[set[int]] = []
        for n in range(2):
            self.producers.append(self.fresh(Upstream("up", "", n + 1)))
            self.unsent.append(list(range(1, 200)))
            self.flying.append({})
            self.done.append(set())

    def fresh(self, upstream: Upstream) -> Producer:
        self.opened += 1
        return Producer(self.inlet, upstream, f"s{self.opened}", f"u{upstream.instance}")

    @rule(n=st.integers(0, 1), most=st.integers(1, 5))
    def send(self, n: int, most: int) -> None:
        producer = self.producers[n]
        said = producer.statement
        room = said.limit_messages - producer.sent_messages if said is not None else 0
        take = min(most, room)
        run = [x for x in self.unsent[n][:take] if x - self.unsent[n][0] == self.unsent[n].index(x)]
        if run and said is not None and producer.sent_bytes + 100 * len(run) <= said.limit_bytes:
            self.unsent[n] = self.unsent[n][len(run) :]
            assert producer.send((run[0], len(run)))
            self.flying[n][producer.sequence] = run

    @rule(n=st.integers(0, 1), lost=st.booleans(), confirmed=st.booleans())
    def state(self, n: int, lost: bool, confirmed: bool) -> None:
        producer = self.producers[n]
        before = producer.statement
        said = statement(self.inlet, producer)
        if lost:
            producer.statement = before
            return
        acked = [s for s in self.flying[n] if s <= said.floor or any(a <= s < b for a, b in said.ranges)]
        for sequence in acked:
            for number in self.flying[n].pop(sequence):
                assert number in self.done[n], "acked before it was finished"
        if confirmed:
            flying = [x for run in self.flying[n].values() for x in run]
            producer.confirm(min([*self.unsent[n], *flying], default=200))

    @rule(most=st.integers(1, 6))
    def take(self, most: int) -> None:
        for piece in self.inlet.take(most, 1 << 20):
            self.working.append(piece)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        piece = self.working.pop(data.draw(st.integers(0, len(self.working) - 1)))
        self.counts.in_process -= piece.count
        self.counts.completed += piece.count
        self.inlet.release(piece)
        self.unacked.append(piece)

    @precondition(lambda self: self.unacked)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        piece = self.unacked.pop(data.draw(st.integers(0, len(self.unacked) - 1)))
        n = piece.delivery.producer.instance - 1
        for number in ids([piece]):
            assert number not in self.done[n], "worked on twice in one incarnation"
            self.done[n].add(number)
        piece.finish()

    @rule(n=st.integers(0, 1))
    def reset(self, n: int) -> None:
        producer = self.producers[n]
        self.inlet.close(producer.upstream)
        back = sorted(x for run in self.flying[n].values() for x in run)
        self.flying[n].clear()
        self.unsent[n] = back + self.unsent[n]
        self.producers[n] = self.fresh(producer.upstream)

    @invariant()
    def adds_up(self) -> None:
        assert self.counts.off() == 0
        assert 0 <= self.inlet.held_messages <= self.bound
        assert self.counts.queued == sum(p.count for p in self.inlet.queue)
        assert self.counts.in_process == sum(p.count for p in self.working)
        assert self.inlet.held_messages == self.counts.queued + self.counts.in_process
        assert self.inlet.queued_bytes == sum(p.size for p in self.inlet.queue)
        assert self.inlet.held_bytes == self.inlet.queued_bytes + sum(p.size for p in self.working)

    def teardown(self) -> None:
        """Everything left is worked off, and then nothing is owed."""
        if not hasattr(self, "inlet"):
            return
        for _ in range(60):
            self.take(6)
            while self.working:
                piece = self.working.pop()
                self.counts.in_process -= piece.count
                self.counts.completed += piece.count
                self.inlet.release(piece)
                self.unacked.append(piece)
            while self.unacked:
                piece = self.unacked.pop()
                self.done[piece.delivery.producer.instance - 1].update(ids([piece]))
                piece.finish()
            for n in range(2):
                self.state(n, False, True)
        assert not self.inlet.unfinished
        assert self.inlet.held_messages == self.inlet.held_bytes == 0
        assert not any(self.flying)


Sessions.TestCase.settings = settings(max_examples=30, stateful_step_count=30)
TestSessions = Sessions.TestCase
