from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from link_ends import (
    ConsumerEnd,
    Producer,
    confirm,
    done,
    encoded,
    end,
    finish,
    gap,
    hand_back,
    heartbeat,
    instance_of,
    leave,
    numbers_of,
    opened,
    parcel,
    peer_error,
    release,
    session_lost,
    shows,
    statement,
    states,
    take,
    taken,
    turn,
    welcome,
)
from playbook import Placeholder, Playbook, at_least, below, containing
from session_names import SECRET, named

from zpipe.core.policy import LinkPolicy, StagePolicy
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.upstream.upstreams import Identity, Upstreams
from zpipe.core.wire import frames
from zpipe.core.work.delivery import Slice
from zpipe.errors import PeerError

# ---- parcels


def test_a_parcel_is_queued_worked_on_and_acked() -> None:
    sent_bytes = Placeholder()
    assert (
        Playbook(ConsumerEnd("s"))
        << parcel("s", 1, [1, 2], [3])
        >> shows("s", sent_bytes=sent_bytes)
        >> shows(received=3, queued=3, held=3, queued_bytes=sent_bytes, held_bytes=sent_bytes)
        >> states("s", floor=0, received=1)
        << take(100)
        >> taken(1, 2, 3)
        >> shows(queued=0, in_process=3)
        << release(1, 2, 3)
        >> states("s", released=3, floor=0)
        >> shows(held=0, held_bytes=0, unfinished=True)
        << finish(1, 2, 3)
        >> states("s", floor=1)
        >> shows(unfinished=False)
    )


def test_acks_out_of_order_are_ranges() -> None:
    book = Playbook(ConsumerEnd("s"))
    for n in range(1, 7):
        book << parcel("s", n, [n])
    assert (
        book
        << take(100)
        >> taken(1, 2, 3, 4, 5, 6)
        << done(3, 4, 6)
        >> states("s", floor=0, ranges=[[3, 5], [6, 7]])
        << done(1)
        >> states("s", floor=1, ranges=[[3, 5], [6, 7]])
        << done(2)
        >> states("s", floor=4, ranges=[[6, 7]])
        << done(5)
        >> states("s", floor=6, ranges=[])
    )


def test_a_gap_is_false_a_copy_and_an_unknown_session_are_passed_over() -> None:
    assert (
        Playbook(ConsumerEnd("s"))
        << parcel("s", 2, [2])
        >> gap("s")
        << parcel("s", 1, [1])
        << parcel("s", 1, [1])
        << parcel("other", 2, [2])
        >> shows(received=1)
        << parcel("s", 2, [2])
        >> shows(received=2)
    )


def test_a_malformed_parcel_changes_nothing() -> None:
    assert (
        Playbook(ConsumerEnd("s"))
        << parcel("s", 1, [1], junk=b"\x00")
        >> peer_error()
        >> shows(received=0, held=0, held_bytes=0)
        << parcel("s", 1, [1])
        >> shows(received=1)
    )


def test_an_end_is_acked_and_a_parcel_after_it_ends_the_end() -> None:
    assert (
        Playbook(ConsumerEnd("s"))
        << end("s", 1)
        >> shows("s", ended=True)
        >> states("s", floor=1)
        << parcel("s", 2, [1])
        >> shows("s", ended=False)
        << end("s", 3)
        >> shows("s", ended=True)
        >> states("s", floor=1)
    )


def test_a_producer_that_sends_more_than_it_may_is_a_peer_error() -> None:
    book = Playbook(ConsumerEnd("s", messages=3))
    for numbers, size in ((range(1, 51), 0), (range(1, 5), 0), ([1], 1 << 20)):
        assert (
            book
            << parcel("s", 1, numbers, size=size)
            >> peer_error(reason=containing("credit"))
            >> shows(held=0, received=0)
        )
    assert book << parcel("s", 1, [1, 2, 3]) >> shows(held=3)


def test_what_was_sent_by_an_older_higher_limit_is_within_the_credit() -> None:
    assert (
        Playbook(ConsumerEnd("a", messages=4))
        << welcome("b", instance=2)
        << turn(0.0)
        >> statement("b", limit_messages=0)
        << confirm("b", need_bytes=1)
        >> states("a", limit_messages=below(4))
        << parcel("a", 1, [1, 2, 3, 4])
        >> shows(received=4)
    )


def test_a_reply_is_asked_for_until_what_asked_is_confirmed() -> None:
    before, asking, limit = Placeholder(), Placeholder(), Placeholder()
    assert (
        Playbook(ConsumerEnd("a", messages=4))
        >> states("a", number=before, limit_messages=limit, reply=False)
        << opened("b", instance=2)
        << confirm("b", need_bytes=1)
        >> states("a", number=asking, limit_messages=below(limit), reply=True)
        << confirm("a", number=before)  # was under way when the limit was lowered
        >> states("a", reply=True)
        << confirm("a", number=asking)
        >> states("a", reply=False)
        >> states("b", limit_messages=at_least(1))
    )


# ---- the queue


def test_taking_keeps_to_messages_and_bytes_but_takes_at_least_one() -> None:
    size = len(encoded(range(1, 11), 100))
    book = Playbook(ConsumerEnd("s"))
    assert (
        book
        << parcel("s", 1, range(1, 11), size=100)
        >> shows(queued_bytes=size)
        << take(3)
        >> taken(1, 2, 3)
        << take(9, 1)
        >> taken(4)
        << take(9, size // 4)
        >> taken(5, 6)
        >> shows(queued=4)
    )
    for n in range(7, 11):
        assert book << take(1) >> taken(n)
    assert book >> shows(queued_bytes=0, queued=0, in_process=10) << take(5, 5) >> taken()


def test_taking_cuts_no_section_to_fill_up_the_bytes() -> None:
    size = len(encoded(range(1, 11), 100))
    book = (
        Playbook(ConsumerEnd("s")) << parcel("s", 1, range(1, 11), size=100) << parcel("s", 2, range(11, 21), size=100)
    )
    assert book << take(20, size + size // 2) >> taken(*range(1, 11))
    assert book << take(20, size // 2) >> taken(*range(11, 15)), "the first is cut where it must be"
    assert book << take(4, 4 * size) >> taken(*range(15, 19)), "and for the number of messages"


def test_taking_over_several_sections_keeps_the_order() -> None:
    assert (
        Playbook(ConsumerEnd("s"))
        << parcel("s", 1, [0, 1, 2])
        << parcel("s", 2, [3, 4, 5])
        << parcel("s", 3, [6, 7, 8])
        << parcel("s", 4, [9, 10, 11])
        << take(5)
        >> taken(0, 1, 2, 3, 4)
        << take(5)
        >> taken(5, 6, 7, 8, 9)
        << take(5)
        >> taken(10, 11)
        >> shows(queued=0)
    )


# ---- a session that is over, and what comes again


def test_queued_messages_are_dropped_and_taken_anew() -> None:
    assert (
        Playbook(ConsumerEnd("a"))
        << parcel("a", 1, [1, 2, 3])
        << session_lost("a")
        >> shows(queued=0, returned=3, held=0, queued_bytes=0, unfinished=False)
        << opened("b")
        << parcel("b", 1, [1, 2, 3], attempt=2)
        >> shows(queued=3, received=6, duplicates=0)
        << take(9)
        >> taken(1, 2, 3)
        << done(1, 2, 3)
        >> states("b", floor=1)
    )


def test_what_is_in_process_is_not_started_again_and_acks_the_copy() -> None:
    assert (
        Playbook(ConsumerEnd("a"))
        << parcel("a", 1, [1, 2, 3])
        << take(2)
        >> taken(1, 2)
        << session_lost("a")
        >> shows(held=2, unfinished=True)
        << opened("b")
        << parcel("b", 1, [1, 2, 3], attempt=2)
        >> shows(duplicates=2, queued=1, held=3)
        << take(9)
        >> taken(3)
        << done(3)
        >> states("b", floor=0)
        << done(1, 2)
        >> states("b", floor=1)
        >> shows(unfinished=False, held=0, held_bytes=0)
    )


def test_what_is_finished_is_acked_at_once() -> None:
    assert (
        Playbook(ConsumerEnd("a"))
        << parcel("a", 1, [1, 2, 3])
        << take(9)
        >> taken(1, 2, 3)
        << done(1, 2, 3)
        << session_lost("a")
        << opened("b")
        << parcel("b", 1, [1, 2, 3], attempt=2)
        >> shows(duplicates=3, queued=0)
        >> states("b", floor=1, released=3)
    )


def test_a_third_copy_and_the_second_both_wait_for_the_first() -> None:
    assert (
        Playbook(ConsumerEnd("a"))
        << parcel("a", 1, [1])
        << take(9)
        >> taken(1)
        << session_lost("a")
        << opened("b")
        << parcel("b", 1, [1], attempt=2)
        << session_lost("b")
        << opened("c")
        << parcel("c", 1, [1], attempt=2)
        >> shows(duplicates=2)
        >> states("c", floor=0)
        << done(1)
        >> states("c", floor=1)
        >> shows(unfinished=False)
    )


def test_below_lowest_numbers_are_forgotten_and_a_new_incarnation_forgets_all() -> None:
    assert (
        Playbook(ConsumerEnd("a"))
        << parcel("a", 1, [1, 2, 3, 4, 5])
        << take(9)
        >> taken(1, 2, 3, 4, 5)
        << done(1, 2, 3, 4, 5)
        >> states("a")
        << confirm("a", lowest=4)
        >> shows("a", accepted=[(4, 6)])
        << session_lost("a")
        << opened("b", incarnation="u2")
        << parcel("b", 1, [4, 5])
        >> shows(duplicates=0, queued=2)
    )


def test_the_same_number_of_another_incarnation_in_process_is_another_message() -> None:
    assert (
        Playbook(ConsumerEnd("a"))
        << parcel("a", 1, [1])
        << take(9)
        >> taken(1)
        << session_lost("a")
        << opened("b", incarnation="u2")
        << parcel("b", 1, [1])
        >> shows(duplicates=0)
        << done(1)  # the one of the incarnation before
        >> states("b", floor=0)
    )


def test_a_copy_waits_for_the_message_of_its_own_incarnation() -> None:
    assert (
        Playbook(ConsumerEnd("a"))
        << parcel("a", 1, [1])
        << take(9)
        >> taken(1)
        << session_lost("a")
        << opened("b", incarnation="u2")
        << parcel("b", 1, [1])
        << take(9)
        >> taken(1)
        << session_lost("b")
        << opened("c", incarnation="u2")
        << parcel("c", 1, [1], attempt=2)
        >> shows(duplicates=1)
        << done(1)  # the one of the incarnation before
        >> states("c", floor=0)
        << done(1)
        >> states("c", floor=1)
    )


def test_the_same_number_of_another_outlet_is_another_message() -> None:
    """One upstream instance feeds this stage by two outlets, so two links with numbers of their own."""
    assert (
        Playbook(ConsumerEnd())
        << welcome("plain")
        << welcome("errors", outlet="errors")
        << turn(0.0)
        >> statement("plain")
        >> statement("errors")
        << parcel("plain", 1, [1])
        << parcel("errors", 1, [1])
        << take(1)
        >> taken(1)
        << take(1)
        >> taken(1)
        << session_lost("plain")
        << session_lost("errors")
        << opened("errors again", outlet="errors")
        << parcel("errors again", 1, [1], attempt=2)
        << done(1)  # message 1 of the other link: this one is still in process
        >> states("errors again", floor=0)
        << done(1)
        >> states("errors again", floor=1)
    )


# ---- handing back


def test_unstarted_messages_are_handed_back_until_confirmed() -> None:
    returned = [[1, 1, 4], [2, 0, 2]]
    assert (
        Playbook(ConsumerEnd("s"))
        << parcel("s", 1, [1, 2, 3, 4])
        << parcel("s", 2, [5, 6])
        << take(1)
        >> taken(1)
        << leave()
        << hand_back()
        >> shows(queued=0, returned=5, in_process=1)
        >> states("s", leaving=True, reply=True, returned=returned, floor=0, ranges=[])
        >> states("s", leaving=True, reply=True, returned=returned, floor=0, ranges=[])
        >> shows(all_confirmed=False)
        << confirm("s")
        >> states("s", returned=[], ranges=[[2, 3]])
        << done(1)
        >> states("s", floor=2)
        >> shows(unfinished=False, all_confirmed=False)
        << confirm("s")
        >> shows(all_confirmed=True)
    )


def test_a_confirm_from_before_the_return_does_not_end_it() -> None:
    assert (
        Playbook(ConsumerEnd("s"))
        << parcel("s", 1, [1, 2])
        >> states("s")
        << hand_back()
        << confirm("s")
        >> states("s", returned=[[1, 0, 2]])
        << confirm("s")
        >> states("s", floor=1)
    )


def test_a_session_that_ends_while_handing_back_owes_nothing() -> None:
    assert (
        Playbook(ConsumerEnd("s"))
        << parcel("s", 1, [1, 2])
        << hand_back()
        >> states("s")
        << session_lost("s")
        >> shows(unfinished=False, held=0, held_bytes=0)
    )


# ---- statements


def test_statements_go_when_due_and_not_before() -> None:
    delay = LinkPolicy().ack_delay_s
    assert (
        Playbook(ConsumerEnd(messages=1000))
        << welcome("s")
        << turn(0.0)
        >> statement("s", limit_messages=1000)
        << turn(0.0)
        << parcel("s", 1, [1])
        << take(1)
        >> taken(1)
        << done(1)
        << turn(0.0)
        >> shows(next_statement_at=pytest.approx(delay))
        << turn(delay)
        >> statement("s", floor=1)
    )


def test_credit_that_runs_low_is_stated_at_once() -> None:
    assert (
        Playbook(ConsumerEnd("s", messages=10))
        << parcel("s", 1, range(1, 10))
        << take(9)
        >> taken(*range(1, 10))
        << release(*range(1, 10))
        << turn(0.0)
        >> statement("s", limit_messages=19)
    )


def test_room_in_bytes_is_stated_at_once() -> None:
    assert (
        Playbook(ConsumerEnd("s", messages=10, size=100))
        << confirm("s", need_bytes=250)
        << turn(0.1)
        >> statement("s", limit_bytes=250)
    )


@pytest.mark.parametrize("need", [60, 100, 150])
def test_room_that_was_needed_is_stated_at_once_however_much_was_stated_before(need: int) -> None:
    consumer = ConsumerEnd("a", "b", messages=10, size=200)
    consumer.handle(heartbeat())
    for _ in range(4):  # no heartbeat in between
        for event in (confirm("b", need_bytes=need), confirm("a"), turn(10.0)):
            consumer.handle(event)
    said = consumer.producers["b"].statement
    assert said is not None and said.limit_bytes >= need


def test_a_need_said_before_what_has_arrived_meanwhile_is_over() -> None:
    """Confirms and parcels come by different sockets."""
    assert (
        Playbook(ConsumerEnd("s", messages=10, size=100))
        << confirm("s", need_bytes=250)
        >> states("s")
        << parcel("s", 1, [1], size=200)
        << confirm("s", number=1, sequence=0, sent_messages=0, sent_bytes=0, need_bytes=250)
        >> shows("s", needs=(0, 0))
    )


@pytest.mark.parametrize("producers", [2, 5])
def test_needs_in_both_units_are_met_for_one_producer_at_a_time(producers: int) -> None:
    names = [f"s{n}" for n in range(producers)]
    consumer = ConsumerEnd(*names, messages=1, size=200)
    sizes = [20 + 30 * (n % 3) for n in range(producers)]
    needs = [0] * producers
    for turn_number in range(60 * producers):
        for n, name in enumerate(names):
            consumer.handle(heartbeat())
            producer = consumer.producers[name]
            said = producer.statement
            assert said is not None
            number = producer.sequence + 1
            need = len(encoded([1], sizes[n])) + 2
            if said.limit_messages > producer.sent_messages and said.limit_bytes >= producer.sent_bytes + need:
                assert consumer.handle(parcel(name, number, [number], size=sizes[n])) == []
                assert consumer.handle(take(1)) == [taken(number)]
                consumer.handle(done(number))
                sizes[n] = 20 + 30 * ((n + turn_number) % 3)
                needs[n] = 0
            else:
                needs[n] = max(needs[n], need)
            consumer.handle(confirm(name, need_bytes=needs[n]))
    assert min(producer.sequence for producer in consumer.producers.values()) >= 2


def test_whoever_sends_among_many_gets_more_room_at_the_heartbeat() -> None:
    consumer = ConsumerEnd("a", "b", "c", "d", messages=100)
    for sequence in range(1, 6):
        numbers = list(range(25 * sequence - 24, 25 * sequence + 1))
        for event in (parcel("a", sequence, numbers), take(25), done(*numbers), turn(sequence / 100)):
            consumer.handle(event)
    assert said(consumer, "a").limit_messages == 150
    consumer.handle(heartbeat())
    assert (said(consumer, "b").limit_messages, said(consumer, "b").reply) == (6, True)
    for event in (*(confirm(name) for name in "bcd"), turn(consumer.now + 1)):
        consumer.handle(event)
    assert said(consumer, "a").limit_messages == 125 + 81


def said(consumer: ConsumerEnd, name: str) -> frames.Statement:
    statement = consumer.producers[name].statement
    assert statement is not None
    return statement


def test_leaving_grants_nothing_more() -> None:
    limit = Placeholder()
    assert (
        Playbook(ConsumerEnd("s", messages=10))
        >> states("s", limit_messages=limit)
        << parcel("s", 1, range(1, 6))
        << leave()
        << take(9)
        >> taken(1, 2, 3, 4, 5)
        << done(1, 2, 3, 4, 5)
        >> states("s", leaving=True, limit_messages=limit)
    )


# ---- peers that lie


def in_session() -> tuple[Upstreams, Inlet]:
    """An inlet as the upstreams of a stage have it, which say hello and know their peers."""
    inlet = ConsumerEnd().inlet
    upstreams = Upstreams(Identity("p", "c", 1, "c1", "inbox"), SECRET, [("up", "")], inlet, StagePolicy())
    upstreams.connected(("up", 1), 0.0)
    upstreams.hellos(0.0)
    upstreams.heard(("up", 1), frames.Welcome(frames.VERSION, named("s"), "u1", 1), 0.0)
    assert inlet.owner(named("s")) is not None
    return upstreams, inlet


def test_a_state_that_is_none_is_a_peer_error() -> None:
    upstreams, _ = in_session()
    with pytest.raises(PeerError):
        announced = frames.write(frames.Announcement("p", "up", 1, "u1", "ASLEEP", False, False))
        upstreams.heard(("up", 1), frames.read(announced), 0.0)


def test_a_confirm_of_a_statement_never_made_does_not_confirm_for_ever() -> None:
    assert (
        Playbook(ConsumerEnd("s", messages=10))
        >> states("s", number=2)
        << confirm("s", number=3)
        >> peer_error(reason=containing("confirms"))
        << confirm("s", number=1 << 62)
        >> peer_error(reason=containing("confirms"))
        >> shows(all_confirmed=False)
        >> states("s", number=3)
        << confirm("s")
        >> shows(all_confirmed=True)
    )


def test_a_producer_cannot_claim_to_have_sent_more_than_it_may() -> None:
    assert (
        Playbook(ConsumerEnd("s", messages=10))
        << confirm("s", sent_messages=1 << 62)
        >> peer_error(reason=containing("more than its credit"))
        >> shows("s", may_arrive=10)
    )


@pytest.mark.parametrize(
    "frame", [frames.Parcel(named("s"), 1, []), frames.Request(1, "drain"), frames.Done(1, "RUNNING")]
)
def test_a_frame_that_has_no_business_there_is_a_peer_error(frame: Any) -> None:
    upstreams, _ = in_session()
    with pytest.raises(PeerError):
        upstreams.heard(("up", 1), frame, 0.0)
    with pytest.raises(PeerError):
        upstreams.parcel(frames.Request(1, "drain"), b"", 0.0)


def test_a_gap_and_a_malformed_parcel_begin_the_session_anew() -> None:
    for frame, body in (
        (frames.Parcel(named("s"), 2, [[1, 1, 1, 1, 0]]), b"x"),
        (frames.Parcel(named("s"), 1, [[1, 2, 1, 1, 0]]), b"x"),
    ):
        upstreams, inlet = in_session()
        with contextlib.suppress(PeerError):
            upstreams.parcel(frame, body, 1.0)
        assert inlet.owner(named("s")) is None
        assert len(upstreams.hellos(1.0)) == 1


# ---- whatever happens


class Sessions(RuleBasedStateMachine):
    """Two upstream instances that keep to their credit, workers that finish in any order, sessions that break."""

    bound = 8

    @initialize()
    def begin(self) -> None:
        self.consumer = ConsumerEnd(messages=self.bound)
        self.opened = 0
        self.names = ["", ""]
        self.read: list[frames.Statement | None] = [None, None]
        self.unsent: list[list[int]] = []
        self.flying: list[dict[int, list[int]]] = []
        self.finished: list[set[int]] = []
        for n in range(2):
            self.open(n)
            self.unsent.append(list(range(1, 200)))
            self.flying.append({})
            self.finished.append(set())

    def open(self, n: int) -> None:
        self.opened += 1
        self.names[n] = f"s{self.opened}"
        self.read[n] = None
        self.consumer.handle(welcome(self.names[n], incarnation=f"u{n + 1}", instance=n + 1))

    def producer(self, n: int) -> Producer:
        return self.consumer.producers[self.names[n]]

    @rule(n=st.integers(0, 1), most=st.integers(1, 5))
    def send(self, n: int, most: int) -> None:
        producer, said = self.producer(n), self.read[n]
        room = said.limit_messages - producer.sent_messages if said is not None else 0
        take = min(most, room)
        run = [x for x in self.unsent[n][:take] if x - self.unsent[n][0] == self.unsent[n].index(x)]
        if run and said is not None and producer.sent_bytes + 100 * len(run) <= said.limit_bytes:
            self.unsent[n] = self.unsent[n][len(run) :]
            assert self.consumer.handle(parcel(self.names[n], producer.sequence + 1, run)) == []
            self.flying[n][producer.sequence] = run

    @rule(n=st.integers(0, 1), lost=st.booleans(), confirmed=st.booleans())
    def state(self, n: int, lost: bool, confirmed: bool) -> None:
        self.consumer.handle(heartbeat(10.0))
        said = self.producer(n).statement
        assert said is not None
        if lost:
            return
        self.read[n] = said
        acked = [s for s in self.flying[n] if s <= said.floor or any(a <= s < b for a, b in said.ranges)]
        for sequence in acked:
            for number in self.flying[n].pop(sequence):
                assert number in self.finished[n], "acked before it was finished"
        if confirmed:
            flying = [x for run in self.flying[n].values() for x in run]
            self.consumer.handle(confirm(self.names[n], lowest=min([*self.unsent[n], *flying], default=200)))

    @rule(most=st.integers(1, 6))
    def take(self, most: int) -> None:
        self.consumer.handle(take(most))

    @precondition(lambda self: self.consumer.in_process)
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        self.consumer.release_piece(data.draw(st.sampled_from(self.consumer.in_process)))

    @precondition(lambda self: self.consumer.released)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.finish_piece(data.draw(st.sampled_from(self.consumer.released)))

    def finish_piece(self, piece: Slice) -> None:
        mine = self.finished[instance_of(piece) - 1]
        for number in numbers_of(piece):
            assert number not in mine, "worked on twice in one incarnation"
            mine.add(number)
        self.consumer.finish_piece(piece)

    @rule(n=st.integers(0, 1))
    def reset(self, n: int) -> None:
        self.consumer.handle(session_lost(self.names[n]))
        back = sorted(x for run in self.flying[n].values() for x in run)
        self.flying[n].clear()
        self.unsent[n] = back + self.unsent[n]
        self.open(n)

    @invariant()
    def adds_up(self) -> None:
        queued, working = self.consumer.queued, self.consumer.in_process
        shown = self.consumer.look()
        assert self.consumer.counts.off() == 0
        assert 0 <= shown["held"] <= self.bound
        assert shown["queued"] == sum(p.count for p in queued)
        assert shown["in_process"] == sum(p.count for p in working)
        assert shown["held"] == shown["queued"] + shown["in_process"]
        assert shown["queued_bytes"] == sum(p.size for p in queued)
        assert shown["held_bytes"] == shown["queued_bytes"] + sum(p.size for p in working)

    def teardown(self) -> None:
        """Everything left is worked off, and then nothing is owed."""
        if not hasattr(self, "consumer"):
            return
        for _ in range(60):
            self.take(6)
            for piece in list(self.consumer.in_process):
                self.consumer.release_piece(piece)
            for piece in list(self.consumer.released):
                self.finish_piece(piece)
            for n in range(2):
                self.state(n, False, True)
        assert Playbook(self.consumer) >> shows(unfinished=False, held=0, held_bytes=0)
        assert not any(self.flying)


Sessions.TestCase.settings = settings(max_examples=30, stateful_step_count=30)
TestSessions = Sessions.TestCase
