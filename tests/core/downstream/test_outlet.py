from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from link_ends import (
    NOW,
    ProducerEnd,
    confirms,
    connected,
    encoded,
    end,
    finished,
    hello,
    offer,
    opened,
    parcel,
    send,
    send_ends,
    session_lost,
    shows,
    statement,
    suspect,
)
from playbook import Line, Placeholder, Playbook, at_least, at_most

CODECS = st.sampled_from(["cbor", "msgpack"])
TEXT_30 = {"size": 30, "codec": "msgpack"}
"""Such texts are a byte longer in CBOR."""


def count(line: Line) -> int:
    """Messages of a parcel."""
    return sum(map(len, line.values[2:]))


def receivers(parcels: list[Line]) -> list[str]:
    return [line.values[0] for line in parcels]


# ---- sending


def test_nothing_goes_without_consumer_readiness_or_credit() -> None:
    assert (
        Playbook(ProducerEnd())
        << offer(3)
        << send()
        << hello("s")
        << statement("s", limit_messages=5)
        << send()
        << connected("s")
        << statement("s", leaving=True)
        << send()
        << statement("s", limit_messages=0)
        << send()
        << statement("s", limit_messages=1)
        << send()
        >> parcel("s", 1, [1], attempt=1)
    )


@pytest.mark.parametrize("limit", range(1, 12))
def test_message_credit_is_kept_exactly(limit: int) -> None:
    producer = ProducerEnd(s=limit)
    producer.handle(offer(10))
    assert sum(map(count, producer.handle(send()))) == min(limit, 10)
    assert Playbook(producer) >> shows("s", sent=min(limit, 10)) << send()
    for event in (statement("s", limit_messages=10), send()):
        producer.handle(event)
    assert Playbook(producer) >> shows("s", sent=10) >> shows(unsent=0)


@pytest.mark.parametrize("spare", [0, 1])
def test_a_message_that_fits_the_byte_credit_is_sent(spare: int) -> None:
    size = len(encoded([1], 50))
    assert (
        Playbook(ProducerEnd(s=10))
        << statement("s", limit_bytes=size + spare)
        << offer(1, size=50)
        << send()
        >> parcel("s", 1, [1])
        >> shows("s", need_bytes=0, need_unsaid=False)
    )


def test_a_message_one_byte_over_the_byte_credit_waits_and_says_its_size() -> None:
    size = len(encoded([1], 50))
    assert (
        Playbook(ProducerEnd(s=10))
        << statement("s", limit_bytes=size - 1)
        << offer(1, size=50)
        << send()
        >> shows("s", need_bytes=size, need_unsaid=True)
        >> confirms("s", need_bytes=size)
        >> shows("s", need_unsaid=False)
        << statement("s", limit_bytes=size)
        << send()
        >> parcel("s", 1, [1])
        >> confirms("s", need_bytes=0)
    )


def test_a_section_over_the_byte_credit_is_cut_by_its_true_size() -> None:
    for room in range(20, 400, 7):
        producer = ProducerEnd(s=100)
        for event in (statement("s", limit_bytes=room), offer(8, size=30)):
            producer.handle(event)
        numbers = [n for line in producer.handle(send()) for run in line.values[2:] for n in run]
        assert numbers == list(range(1, 1 + len(numbers)))
        assert Playbook(producer) >> shows("s", sent_bytes=at_most(room))
        assert len(numbers) < 8 or room >= len(encoded(range(1, 9), 30))


def test_parcels_are_limited_and_a_large_message_travels_alone() -> None:
    producer = ProducerEnd(s=1000)
    for event in (offer(1, size=1000), *[offer(1, size=10)] * 20, offer(3, size=300)):
        producer.handle(event)
    counts = list(map(count, producer.handle(send())))
    assert counts[0] == 1
    assert max(counts) <= producer.policy.parcel_messages
    assert sum(counts) == 24


def test_a_short_backlog_is_shared_among_idle_consumers() -> None:
    producer = ProducerEnd(a=100, b=100, c=100)
    for event in (*(statement(name, rate=200.0) for name in "abc"), offer(6)):
        producer.handle(event)
    producer.handle(send())
    # The last one waits until one of them has about run dry: nobody can say yet who that will be.
    assert Playbook(producer) >> shows("a", sent=2) >> shows("b", sent=2) >> shows("c", sent=1)


def test_work_of_some_milliseconds_is_not_shared() -> None:
    """One parcel costs as much as some hundred small messages."""
    producer = ProducerEnd(a=100, b=100, c=100)
    for event in (*(statement(name, rate=1000.0) for name in "abc"), offer(9)):
        producer.handle(event)
    producer.handle(send())
    assert Playbook(producer) >> shows("a", sent=5) >> shows("b", sent=4) >> shows("c", sent=0)


def test_the_consumer_that_would_come_to_it_first_gets_it() -> None:
    producer = ProducerEnd(fast=1000, slow=1000)
    for event in (statement("fast", rate=1000.0), statement("slow", rate=100.0)):
        producer.handle(event)
    sent = []
    for _ in range(55):
        producer.handle(offer(8))
        sent += receivers(producer.handle(send()))
    messages = {name: producer.look(name)["sent"] for name in ("fast", "slow")}
    assert 9 < messages["fast"] / messages["slow"] < 11
    for event in (statement("slow", released=messages["slow"]), offer(1)):
        producer.handle(event)
    assert receivers(producer.handle(send())) == ["slow"]


def test_of_consumers_that_are_about_idle_the_first_four_take_turns() -> None:
    """A process that sleeps is dear to wake: a few that are awake serve more messages in one go than many that take turns."""
    producer = ProducerEnd(a=1000, b=1000, c=1000, d=1000, e=1000, f=1000)
    sent = []
    for _ in range(20):
        producer.handle(offer(1))
        sent += receivers(producer.handle(send()))
    assert sent == list("abcd") * 5


def test_a_consumer_that_states_itself_often_keeps_its_turn() -> None:
    producer = ProducerEnd(a=1000, b=1000, c=1000)
    sent: list[str] = []
    for n in range(1, 31):
        now = NOW + 0.01 * n
        producer.handle(offer(1))
        sent += receivers(producer.handle(send(now=now)))
        for name in ("a", sent[-1]):
            producer.handle(statement(name, now=now + 0.005, rate=1000.0, released=sent.count(name)))
    assert [sent.count(name) for name in "abc"] == [10, 10, 10]


def test_a_consumer_that_stands_still_is_passed_over_until_it_says_something() -> None:
    """By its rate it has been idle for long, so it would be given all that its credit allows."""
    producer = ProducerEnd(a=1000, b=1000)
    sent = []
    for n in range(1, 21):
        now = NOW + 0.2 * n
        producer.handle(offer(1))
        sent += receivers(producer.handle(send(now=now)))
        producer.handle(statement("b", now=now, released=producer.look("b")["sent"]))
    assert sent == ["a"] + ["b"] * 19
    producer.handle(statement("a", now=now, released=1))
    sent = []
    for _ in range(2):
        producer.handle(offer(1))
        sent += receivers(producer.handle(send(now=now)))
    assert sorted(sent) == ["a", "b"], "they take turns again"


@pytest.mark.parametrize("early", [0.0002, -0.0002])
def test_what_waits_for_company_goes_when_its_consumer_is_about_to_run_dry(early: float) -> None:
    """No statement has to come first: one may be 20 ms away, and the consumer would be idle for so long."""
    producer = ProducerEnd(s=100)
    for event in (statement("s", rate=1000.0), offer(8), send(), offer(1), send()):
        producer.handle(event)
    assert producer.outlet.send_at == pytest.approx(NOW + 0.007)
    assert bool(producer.handle(send(now=producer.outlet.send_at - early))) == (early < 0)


@pytest.mark.parametrize("rate", [0.0, 100.0])
def test_under_load_a_parcel_waits_until_it_is_worth_its_overhead(rate: float) -> None:
    assert (
        Playbook(ProducerEnd(s=16))
        << statement("s", rate=rate)
        << offer(2)
        << send()
        >> parcel("s", 1, [1, 2])  # idle: at once
        << offer(3)
        << send()  # a quarter of the window is not there yet
        << offer(1)
        << send()
        >> parcel("s", 2, [3, 4, 5], [6])
        << offer(1)
        << statement("s", rate=rate, released=6)
        << send()
        >> parcel("s", 3, [7])  # idle again
    )


@pytest.mark.parametrize("rate", [0.0, 100.0])
def test_whatever_is_there_goes_to_a_consumer_that_has_received_everything(rate: float) -> None:
    assert (
        Playbook(ProducerEnd(s=100))
        << statement("s", rate=rate)
        << offer(3)
        << send()
        >> parcel("s", 1, [1, 2, 3])
        << offer(1)
        << send()  # the first is on its way, and work is left there
        << statement("s", rate=rate, received=0)
        << send()
        << statement("s", rate=rate, received=1)
        << send()
        >> parcel("s", 2, [4])  # three are still held there, but nothing is on its way
    )


def test_whatever_is_there_goes_to_a_consumer_that_is_about_to_run_dry() -> None:
    book = (
        Playbook(ProducerEnd(s=100)) << statement("s", rate=2000.0) << offer(3) << send() >> parcel("s", 1, [1, 2, 3])
    )
    assert book << statement("s", rate=2000.0, received=0, released=0) << offer(1) << send()
    assert (
        book
        << statement("s", rate=10_000.0, received=1)
        << offer(3)
        << send()
        >> parcel("s", 2, [4], [5, 6, 7])
        << statement("s", rate=10_000.0, received=1, released=4)
        << offer(1)
        << send()
        >> parcel("s", 3, [8])
    )


def test_every_consumer_is_tried_for_a_message_s_bytes() -> None:
    size = len(encoded([3], 200))
    assert (
        Playbook(ProducerEnd())
        << hello("idle")
        << connected("idle")
        << hello("busy")
        << connected("busy")
        << statement("busy", limit_messages=10)
        << offer(1)
        << send()
        >> parcel("busy", 1, [1])
        << statement("idle", limit_messages=10, limit_bytes=30)
        << offer(1, size=200)
        << send()
        >> parcel("busy", 2, [2])
        << statement("busy", limit_bytes=30)
        << offer(1, size=200)
        << send()
        >> shows("idle", need_bytes=size)
        >> shows("busy", need_bytes=size)
        << statement("busy", limit_bytes=10_000)
        << send()
        >> parcel("busy", 3, [3])
        >> shows("idle", need_bytes=0)  # what it was needed for is gone
    )


@pytest.mark.parametrize("count", [1, 8])
def test_a_producer_shut_out_says_what_one_message_needs(count: int) -> None:
    """No credit for a single message, and nothing under way that would bring some."""
    need = Placeholder()
    book = Playbook(ProducerEnd(s=0))
    assert (
        book
        << offer(count, size=30)
        << send()
        >> shows("s", need_unsaid=True, need_bytes=at_most(len(encoded([1], 30))))
        >> shows("s", need_bytes=need)
        >> confirms("s", need_bytes=need)
        >> shows("s", need_unsaid=False)
        << statement("s", limit_messages=1)
        >> confirms("s", need_bytes=need)  # said until it is sent
        << send()
        >> parcel("s", 1, [1])
        >> shows("s", need_bytes=0)
    )
    assert need.value > 0
    if count > 1:
        assert (
            book
            << send()
            >> shows("s", need_bytes=0)  # one is under way: its release brings credit
            << statement("s", released=1)
            << send()
            >> shows("s", need_bytes=at_least(1))
        )


# ---- acks


def test_acks_by_floor_and_ranges_in_any_order_and_twice() -> None:
    book = Playbook(ProducerEnd(s=100))
    for n in range(1, 7):
        book << offer(2) << send() >> parcel("s", n, [2 * n - 1, 2 * n])
    assert (
        book
        << statement("s", ranges=[[3, 5]])
        >> finished(5, 6)
        >> finished(7, 8)
        >> shows(lowest=1)
        << statement("s", floor=1, ranges=[[3, 5], [6, 7]])
        >> finished(1, 2)
        >> finished(11, 12)
        >> shows(lowest=3)
        << statement("s", floor=6)
        >> finished(3, 4)
        >> finished(9, 10)
        << statement("s", floor=6, ranges=[[7, 1 << 62]])
        >> shows(acked=12, in_flight=0, in_flight_bytes=0, lowest=13)
    )


def test_an_old_statement_is_not_read() -> None:
    assert (
        Playbook(ProducerEnd(s=100))
        << offer(1)
        << send()
        >> parcel("s", 1, [1])
        << statement("s", number=1, limit_messages=5, floor=1)
        >> shows("s", limit_messages=100)
        << statement("s", number=9, limit_messages=5, floor=1)
        >> finished(1)
        >> shows("s", limit_messages=5)
    )


@pytest.mark.parametrize(("ranges", "acked"), [([[1, 2], [1, 2]], 1), ([[1, 3], [2, 4]], 3)])
def test_ranges_that_overlap_do_no_harm(ranges: list[list[int]], acked: int) -> None:
    book = Playbook(ProducerEnd(s=100))
    for n in (1, 2, 3):
        book << offer(1) << send() >> parcel("s", n, [n])
    book << statement("s", ranges=ranges)
    for n in range(1, acked + 1):
        book >> finished(n)
    assert book >> shows(acked=acked)


def test_an_ack_of_one_part_of_a_cut_section_does_not_finish_it() -> None:
    assert (
        Playbook(ProducerEnd(s=2))
        << offer(5)
        << send()
        >> parcel("s", 1, [1, 2])
        << statement("s", limit_messages=5, floor=1)
        << send()
        >> parcel("s", 2, [3, 4, 5])
        << statement("s", floor=2)
        >> finished(1, 2, 3, 4, 5)
    )


def test_a_parcel_finished_in_part_finishes_what_each_was_made_of() -> None:
    rows = [[1, 0, 1], [1, 2, 4]]
    assert (
        Playbook(ProducerEnd(s=5))
        << offer(5, each=True)
        << send()
        >> parcel("s", 1, [1, 2, 3, 4, 5])
        << statement("s", finished=rows)
        >> finished(1)
        >> finished(3, 4)
        >> shows(acked=3, in_flight=2)
        << statement("s", finished=rows)  # a row that comes twice changes nothing
        >> shows(acked=3, in_flight=2)
        << session_lost("s")
        << opened("again", limit_messages=5)
        << send()
        >> parcel("again", 1, [2], [5], attempt=2)
        << statement("again", floor=1)
        >> finished(2)
        >> finished(5)
        >> shows(acked=5)
    )


def test_finished_rows_that_are_lies_do_no_harm() -> None:
    assert (
        Playbook(ProducerEnd(s=3))
        << offer(3)
        << send()
        >> parcel("s", 1, [1, 2, 3])
        << statement("s", finished=[[1, 3, 9], [2, 0, 1], [0, 0, 1], [1, 2, 2], [1, 2, 1]])
        >> shows(acked=0, in_flight=3)
        << statement("s", finished=[[1, 0, 1 << 62]])
        >> finished(1, 2, 3)
        >> shows(acked=3)
    )


# ---- suspects


def test_suspects_travel_alone_and_say_how_much_they_are_suspected() -> None:
    assert (
        Playbook(ProducerEnd(s=100))
        << offer(6)
        << send()
        >> parcel("s", 1, [1, 2, 3, 4, 5, 6])
        << session_lost("s")
        << suspect([2, 4, 0], [6, 7, 1], [7, 99, 1])
        << opened("next", limit_messages=100)
        << send()
        >> parcel("next", 1, [1], [2], [3], [4, 5], [6], suspicion=[0, 1, 1, 0, 2])
    )


def test_suspicion_grows_and_ends_with_the_ack() -> None:
    book = Playbook(ProducerEnd(s0=100)) << offer(3) << send() >> parcel("s0", 1, [1, 2, 3], suspicion=0)
    for n in range(1, 4):
        assert (
            book
            << session_lost(f"s{n - 1}")
            << suspect([2, 3, n - 1])  # first in company, then alone
            << opened(f"s{n}", limit_messages=100)
            << send()
            >> parcel(f"s{n}", 1, [1], [2], [3], suspicion=[0, n, 0])
        )
    assert book << statement("s3", floor=1) >> finished(1, 2, 3) << suspect([2, 3, 1]) >> shows(suspects=False)


def test_a_suspect_in_flight_to_a_sibling_is_isolated_when_it_comes_back() -> None:
    assert (
        Playbook(ProducerEnd(one=100, other=0))
        << offer(4)
        << send()
        >> parcel("one", 1, [1, 2, 3, 4])
        << session_lost("one")
        << statement("other", limit_messages=100)
        << send()
        >> parcel("other", 1, [1, 2, 3, 4])
        << suspect([3, 4, 0])
        << session_lost("other")
        << opened("next", limit_messages=100)
        << send()
        >> parcel("next", 1, [1, 2], [3], [4], suspicion=[0, 1, 0])
    )


# ---- codecs


def test_a_consumer_gets_sections_as_they_are_or_written_anew_in_cbor() -> None:
    assert (
        Playbook(ProducerEnd())
        << opened("old", limit_messages=2)
        << offer(2, **TEXT_30)
        << send()
        >> parcel("old", 1, [1, 2], codec="cbor")
        >> shows("old", sent_bytes=len(encoded([1, 2], 30)))
        >> shows(in_flight_bytes=len(encoded([1, 2], 30)), unsent_bytes=0)
        << opened("new", limit_messages=9, codec="msgpack")
        << offer(2, **TEXT_30)
        << send()
        >> parcel("new", 1, [3, 4], codec="msgpack")
        >> shows("new", sent_bytes=len(encoded([3, 4], 30, "msgpack")))
        << offer(1, size=30)
        << send()
        >> parcel("new", 2, [5], codec="cbor")
    )


def test_what_was_in_flight_is_written_anew_for_a_consumer_that_reads_only_cbor() -> None:
    assert (
        Playbook(ProducerEnd())
        << opened("new", limit_messages=9, codec="msgpack")
        << offer(4, **TEXT_30)
        << send()
        >> parcel("new", 1, [1, 2, 3, 4], codec="msgpack")
        << session_lost("new")
        << opened("old", limit_messages=3)
        << send()
        >> parcel("old", 1, [1, 2, 3], codec="cbor", attempt=2)
        << session_lost("old")
        >> shows(in_flight_bytes=0)
        << opened("newer", limit_messages=9, codec="msgpack")
        << send()
        >> parcel("newer", 1, [1, 2, 3], [4], codec=["cbor", "msgpack"], attempt=[3, 2])
        >> shows(unsent_bytes=0)
    )


@pytest.mark.parametrize("messages", [1, 2])
def test_byte_credit_is_that_of_the_codec_that_is_sent(messages: int) -> None:
    numbers = range(1, messages + 1)
    size, packed = len(encoded(numbers, 30)), len(encoded(numbers, 30, "msgpack"))
    assert size == packed + messages
    alone = messages == 1
    book = (
        Playbook(ProducerEnd())
        << opened("old", limit_messages=9)
        << statement("old", limit_bytes=size - 1)
        << offer(messages, **TEXT_30)
        << send()
    )
    if messages > 1:
        book = book >> parcel("old", 1, [1])
    assert (
        book
        << statement("old", limit_bytes=2 * size)
        << send()
        >> parcel("old", 1 if alone else 2, [messages])
        >> shows("old", sent_bytes=at_most(size + 20))
    )


# ---- the end of a session


def test_redelivery_keeps_the_order_and_counts_the_attempt() -> None:
    assert (
        Playbook(ProducerEnd(s=7))
        << offer(2)
        << send()
        >> parcel("s", 1, [1, 2])
        << offer(2)
        << send()
        >> parcel("s", 2, [3, 4])
        << offer(2)
        << send()
        >> parcel("s", 3, [5, 6])
        << offer(2)
        << send()
        >> parcel("s", 4, [7])
        << offer(2)
        << send()
        << statement("s", floor=1)
        >> finished(1, 2)
        << session_lost("s")
        >> shows(redelivered=5, in_flight_bytes=0)
        << opened("other", limit_messages=100)
        << send()
        >> parcel("other", 1, [3, 4], [5, 6], [7], [8], [9, 10], attempt=[2, 2, 2, 1, 1])
        << session_lost("other")
        << opened("third", limit_messages=100)
        << send()
        >> parcel("third", 1, [3, 4], [5, 6], [7], [8], [9, 10], attempt=[3, 3, 3, 2, 2])
    )


def test_returned_messages_go_to_a_sibling_once_and_keep_their_attempt() -> None:
    returned = [[1, 2, 4], [1, 5, 6]]
    assert (
        Playbook(ProducerEnd(leaver=6))
        << offer(6)
        << send()
        >> parcel("leaver", 1, [1, 2, 3, 4, 5, 6])
        << opened("sibling", limit_messages=100)
        << statement("leaver", leaving=True, returned=returned)
        << statement("leaver", leaving=True, returned=returned)
        << statement("leaver", leaving=True, returned=returned)
        << send()
        >> parcel("sibling", 1, [3, 4], [6], attempt=1)
        >> shows(in_flight=6)
        << statement("leaver", leaving=True, floor=1, returned=returned)
        >> shows(acked=3)
        << statement("sibling", floor=1)
        >> finished(1, 2, 3, 4, 5, 6)
        >> shows(acked=6)
    )


def test_what_is_returned_and_acked_by_one_statement_is_not_acked() -> None:
    assert (
        Playbook(ProducerEnd(leaver=6))
        << offer(3)
        << send()
        >> parcel("leaver", 1, [1, 2, 3])
        << statement("leaver", leaving=True, returned=[[1, 0, 3]], floor=1)
        >> shows(acked=0, unsent=3)
    )


def test_returned_runs_keep_their_order() -> None:
    assert (
        Playbook(ProducerEnd(leaver=6))
        << offer(2)
        << send()
        >> parcel("leaver", 1, [1, 2])
        << offer(2)
        << send()
        >> parcel("leaver", 2, [3, 4])
        << offer(2)
        << send()
        >> parcel("leaver", 3, [5, 6])
        << statement("leaver", leaving=True, returned=[[1, 1, 2], [2, 0, 2], [3, 0, 2]])
        << opened("sibling", limit_messages=100)
        << send()
        >> parcel("sibling", 1, [2], [3, 4], [5, 6])
    )


@pytest.mark.parametrize(
    ("row", "unsent"), [([1, 0, 1 << 62], 3), ([1, 9, 12], 0), ([1, 3, 1], 0), ([7, 0, 1], 0), ([1, 2, 2], 0)]
)
def test_returned_rows_that_are_lies_do_no_harm(row: list[int], unsent: int) -> None:
    book = Playbook(ProducerEnd(s=6)) << offer(3) << send() >> parcel("s", 1, [1, 2, 3])
    assert book << statement("s", returned=[row]) >> shows(unsent=unsent)
    book.part.handle(statement("s", floor=1))
    assert book >> shows(in_flight=0)


# ---- the end of the stream


def test_the_end_is_said_after_the_last_parcel_and_again_after_a_redelivery() -> None:
    assert (
        Playbook(ProducerEnd(s=10))
        << send_ends()
        >> end("s", 1)
        << send_ends()
        >> shows(end_acked=False)
        << statement("s", floor=1)
        >> shows(end_acked=True)
        >> shows("s", ended=True)
        << offer(1)
        << send()
        >> parcel("s", 2, [1])
        >> shows("s", ended=False)
        << send_ends()
        >> end("s", 3)
        << session_lost("s")
        >> shows(unsent=1)
    )


# ---- whatever happens


class Links(RuleBasedStateMachine):
    """A model of where each message is, and whose attempt it is."""

    @initialize()
    def begin(self) -> None:
        self.producer = ProducerEnd()
        self.sessions: list[str] = []
        self.offered: list[range] = []
        self.finished: list[Line] = []
        self.unsent: set[int] = set()
        self.flights: dict[tuple[str, int], list[int]] = {}
        self.here: dict[tuple[str, int], set[int]] = {}
        self.returns: dict[str, list[list[int]]] = {}
        self.attempts: dict[int, int] = {}
        self.acked: set[int] = set()
        self.opened = 0

    @property
    def produced(self) -> int:
        return self.offered[-1].stop - 1 if self.offered else 0

    def look(self, session: str, *names: str) -> list[int]:
        shown = self.producer.look(session)
        return [shown[name] for name in names]

    @rule(count=st.integers(1, 20), size=st.sampled_from([0, 5, 30, 90, 500]), codec=CODECS)
    def offer(self, count: int, size: int, codec: str) -> None:
        numbers = range(self.produced + 1, self.produced + 1 + count)
        self.offered.append(numbers)
        self.producer.handle(offer(count, size, codec=codec))
        for n in numbers:
            self.unsent.add(n)
            self.attempts[n] = 1

    @precondition(lambda self: len(self.sessions) < 3)
    @rule(codec=CODECS)
    def open(self, codec: str) -> None:
        self.opened += 1
        session = f"s{self.opened}"
        self.producer.handle(hello(session, codec=codec))
        self.producer.handle(connected(session))
        self.returns[session] = []
        self.sessions.append(session)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), messages=st.integers(-3, 20), size=st.integers(-50, 900), ack=st.integers(0, 3))
    def state(self, data: st.DataObject, messages: int, size: int, ack: int) -> None:
        session = data.draw(st.sampled_from(self.sessions))
        mine = sorted(sequence for name, sequence in self.flights if name == session)
        if mine and data.draw(st.booleans()):
            sequence, start, stop = self.part_of_a_parcel(data, session, mine)
            part = self.flights[session, sequence][start:stop]
            if set(part) <= self.here[session, sequence] and not self.is_returned(session, sequence, start, stop):
                self.returns[session].append([sequence, start, stop])
                self.here[session, sequence].difference_update(part)
                self.unsent.update(part)
        finished = []
        if mine and data.draw(st.booleans()):
            sequence, start, stop = self.part_of_a_parcel(data, session, mine)
            # A consumer never says that a message it hands back is finished.
            if not self.is_returned(session, sequence, start, stop):
                finished.append([sequence, start, stop])
                done = set(self.flights[session, sequence][start:stop]) & self.here[session, sequence]
                self.here[session, sequence] -= done
                self.acked |= done
        acks = sorted(set(data.draw(st.lists(st.sampled_from(mine), max_size=ack)))) if mine else []
        for sequence in acks:
            self.acked |= self.here.pop((session, sequence))
            del self.flights[session, sequence]
        last, sent, sent_bytes = self.look(session, "sequence", "sent", "sent_bytes")
        floor = mine[0] - 1 if mine else last
        while floor + 1 <= last and (session, floor + 1) not in self.flights:
            floor += 1
        self.finished += self.producer.handle(
            statement(
                session,
                limit_messages=max(0, sent + messages),
                limit_bytes=max(0, sent_bytes + size),
                floor=floor,
                ranges=[[n, n + 1] for n in range(floor + 1, last + 1) if (session, n) not in self.flights],
                returned=[list(row) for row in self.returns[session]],
                finished=finished,
            )
        )

    def part_of_a_parcel(self, data: st.DataObject, session: str, mine: list[int]) -> tuple[int, int, int]:
        sequence = data.draw(st.sampled_from(mine))
        length = len(self.flights[session, sequence])
        start = data.draw(st.integers(0, length - 1))
        return sequence, start, data.draw(st.integers(start + 1, length))

    def is_returned(self, session: str, sequence: int, start: int, stop: int) -> bool:
        return any(s == sequence and a < stop and start < b for s, a, b in self.returns[session])

    @precondition(lambda self: self.produced)
    @rule(data=st.data(), alone=st.integers(0, 1))
    def suspect(self, data: st.DataObject, alone: int) -> None:
        number = data.draw(st.integers(1, self.produced + 2))
        self.producer.handle(suspect([number, number + 1, alone]))
        for piece in self.producer.unsent_sections:
            if piece.first == number:
                assert piece.count == 1 and piece.suspicion >= 1 + alone

    @rule()
    def send(self) -> None:
        before = {session: self.look(session, "sent", "sent_bytes") for session in self.sessions}
        for line in self.producer.handle(send()):
            session, sequence, *runs = line.values
            each = line.fields["attempt"]
            attempts = each if isinstance(each, list) else [each] * len(runs)
            for run, attempt in zip(runs, attempts, strict=True):
                assert set(run) <= self.unsent
                assert all(self.attempts[n] == attempt for n in run)
                self.unsent -= set(run)
            self.flights[session, sequence] = [n for run in runs for n in run]
            self.here[session, sequence] = set(self.flights[session, sequence])
        for session in self.sessions:
            if self.look(session, "sent", "sent_bytes") != before[session]:
                sent, sent_bytes, *limits = self.look(session, "sent", "sent_bytes", "limit_messages", "limit_bytes")
                assert sent <= limits[0]
                assert sent_bytes <= limits[1]

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self.sessions))
        self.sessions.remove(session)
        self.producer.handle(session_lost(session))
        for key in [key for key in self.flights if key[0] == session]:
            for n in self.here.pop(key):
                self.attempts[n] += 1
                self.unsent.add(n)
            del self.flights[key]

    @invariant()
    def adds_up(self) -> None:
        flying = set().union(*self.here.values()) if self.here else set()
        assert Playbook(self.producer) >> shows(
            unsent=len(self.unsent),
            in_flight=len(flying),
            acked=len(self.acked),
            lowest=min(self.unsent | flying, default=self.produced + 1),
            unsent_bytes=sum(s.size for s in self.producer.unsent_sections),
            in_flight_bytes=sum(s.size for s in self.producer.in_flight_sections),
        )
        whole = [numbers for numbers in self.offered if set(numbers) <= self.acked]
        assert sorted(line.values for line in self.finished) == [tuple(numbers) for numbers in whole]


Links.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestLinks = Links.TestCase
