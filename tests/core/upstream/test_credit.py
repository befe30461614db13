from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zpipe.core.policy import Bound, StagePolicy
from zpipe.core.upstream.credit import Grant, fair_share, share, weigh
from zpipe.testing import Simulation, Spec


class Line:
    """A producer and the lossy way to it; `wants`: the size of what it has to send next (0: nothing)."""

    def __init__(self, wants: int = 0) -> None:
        self.grant = Grant()
        self.wants = wants
        self.asking = False
        self.limit = 0
        self.sent = 0
        self.on_way: list[int] = []
        self.read = 0
        self.number = 0
        self.stated: list[tuple[int, int]] = []
        self.confirms: list[tuple[int, int, int]] = []

    def state(self) -> None:
        self.number += 1
        self.grant.issue(self.number)
        self.stated.append((self.number, self.grant.limit))

    def deliver(self, at: int) -> None:
        number, limit = self.stated[at]
        if number > self.read:
            self.read, self.limit = number, limit

    def send(self, size: int) -> bool:
        if self.sent + size > self.limit:
            return False
        self.asking = False
        self.sent += size
        self.on_way.append(size)
        return True

    def receive(self) -> None:
        if self.on_way:
            self.grant.receive(self.on_way.pop(0))

    @property
    def need(self) -> int:
        """What it says it needs: from when it has too little room until it has sent, or has nothing to send."""
        self.asking = self.wants > 0 and (self.asking or self.sent + self.wants > self.limit)
        return self.wants if self.asking else 0

    def confirm(self, need: int) -> None:
        self.confirms.append((self.read, self.sent, need))

    def hear(self, at: int) -> None:
        number, sent, need = self.confirms[at]
        self.grant.confirm(number, sent)
        self.grant.need = need

    def serve(self) -> bool:
        """Sends what it has to send, if it may; it arrives and is done with at once."""
        done = self.wants > 0 and self.send(self.wants)
        if done:
            self.receive()
            self.grant.released = self.grant.received
        return done


def reweigh(lines: list[Line], bound: int, window: int, taken: int = 0) -> None:
    """What is done at a heartbeat: shares by what has arrived, and what is over one is taken back."""
    grants = [x.grant for x in lines]
    weigh(grants, window)
    for grant in grants:
        grant.lower_to(grant.released + grant.share_of(fair_share(len(grants), bound, window, taken)))


STEP = st.tuples(st.integers(0, 8), st.integers(0, 3), st.integers(0, 1000))


@settings(max_examples=250)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 10), st.lists(STEP, max_size=80))
def test_the_bound_holds_whatever_is_lost_late_or_twice(
    bound: int, window: int, taken: int, steps: list[tuple[int, int, int]]
) -> None:
    window, taken = min(window, bound), min(taken, bound)
    lines = [Line()]
    for step, which, number in steps:
        line = lines[which % len(lines)]
        match step:
            case 0:
                share([x.grant for x in lines], bound, window, taken)
                line.state()
            case 1 if line.stated:
                line.deliver(number % len(line.stated))  # any of those under way, old ones too
            case 2:
                line.send(1 + number % 5)
            case 3:
                line.receive()
            case 4:
                line.grant.released += min(line.grant.held, number % 4)
            case 5:
                line.confirm(number % 2)
            case 6 if line.confirms:
                line.hear(number % len(line.confirms))
            case 7 if number % 3 == 0:
                taken = max(0, taken - 1)
            case 7 if len(lines) < 4:
                lines.append(Line())
            case 8:
                reweigh(lines, bound, window, taken)
        for x in lines:
            assert x.sent <= x.grant.ceiling, "could send more than is counted on"
            assert x.grant.held >= 0
        assert sum(x.grant.committed for x in lines) + taken <= bound
        assert sum(x.sent - x.grant.released for x in lines) + taken <= bound


@settings(max_examples=150)
@given(st.integers(2, 20), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(1, 40)), max_size=60))
def test_bytes_pass_the_bound_by_one_message_alone(bound: int, steps: list[tuple[int, int, int]]) -> None:
    """A need over the whole bound is met only while nothing else is held or may come."""
    lines = [Line(), Line(), Line()]
    for step, which, number in steps:
        line = lines[which]
        match step:
            case 0:
                line.grant.need = number
                share([x.grant for x in lines], bound, bound, 0)
                for x in lines:
                    x.state()
                    x.deliver(-1)
            case 1:
                line.send(number)
            case 2:
                line.receive()
            case 3:
                line.grant.released = line.grant.received
            case 4:
                line.confirm(0)
                line.hear(-1)
        committed = [x.grant.committed for x in lines]
        assert sum(committed) <= bound or sum(c > 0 for c in committed) == 1


def converge(lines: list[Line], bound: int, window: int, rounds: int = 8) -> int:
    """Statements and confirms go to and fro, none lost. Returns how often a limit was lowered."""
    lowered = 0
    for _ in range(rounds):
        lowered += share([x.grant for x in lines], bound, window, 0)
        for x in lines:
            x.state()
            x.deliver(-1)
            x.confirm(x.need)
            x.hear(-1)
        assert sum(x.grant.committed for x in lines) <= bound or sum(x.grant.committed > 0 for x in lines) == 1
    return lowered


def test_one_producer_gets_the_window_and_then_what_it_releases() -> None:
    line = Line()
    converge([line], 100, 10)
    assert line.limit == 10
    line.sent = 10
    line.grant.receive(10)
    converge([line], 100, 10)
    assert line.limit == 10
    line.grant.released = 4
    converge([line], 100, 10)
    assert line.limit == 14


def test_producers_share_equally() -> None:
    lines = [Line(1) for _ in range(4)]
    converge(lines, 100, 100)
    assert [x.limit for x in lines] == [25] * 4


def send_all_they_may(senders: list[Line], lines: list[Line], rounds: int) -> None:
    """What arrives is done at once."""
    for _ in range(rounds):
        for x in senders:
            assert x.send(x.limit - x.sent)
            x.receive()
            x.grant.released = x.grant.received
        converge(lines, 100, 100, rounds=1)


def test_three_quarters_of_the_window_go_to_those_that_send() -> None:
    lines = [Line() for _ in range(4)]
    converge(lines, 100, 100)
    send_all_they_may(lines[:1], lines, rounds=8)
    reweigh(lines, 100, 100)
    converge(lines, 100, 100)
    assert [x.grant.granted for x in lines] == [81, 6, 6, 6]


def test_shares_are_equal_again_once_all_send_all_they_may() -> None:
    lines = [Line() for _ in range(4)]
    converge(lines, 100, 100)
    send_all_they_may(lines[:1], lines, rounds=8)
    for _ in range(16):
        reweigh(lines, 100, 100)
        converge(lines, 100, 100)
        send_all_they_may(lines, lines, rounds=4)
    assert all(23 <= x.grant.granted <= 26 for x in lines), [x.grant.granted for x in lines]


@pytest.mark.parametrize("messages", [100, 101])
def test_nobody_lacks_room_where_all_that_came_would_have_fit_at_once(messages: int) -> None:
    lines = [Line() for _ in range(4)]
    lines[0].grant.received = lines[0].grant.released = messages
    reweigh(lines, 100, 100)
    assert {x.grant.weight for x in lines} == ({1.0} if messages == 100 else {3.25, 0.25})


@pytest.mark.parametrize("bound", [2, 3, 10, 1000])
def test_a_joiner_gets_its_share_of_what_others_leave_unused(bound: int) -> None:
    first, joiner = Line(1), Line(1)
    converge([first], bound, bound)
    assert first.limit == bound
    converge([first, joiner], bound, bound)
    assert joiner.limit >= 1
    assert first.limit >= 1
    assert first.limit + joiner.limit <= bound


def test_a_joiner_gets_its_share_when_something_is_released_if_all_is_held() -> None:
    first, joiner = Line(), Line(1)
    converge([first], 10, 10)
    first.sent = 10
    first.grant.receive(10)
    converge([first, joiner], 10, 10)
    assert joiner.limit == 0
    first.grant.released = 1
    converge([first, joiner], 10, 10)
    assert joiner.limit == 1


def test_a_lowered_limit_counts_until_it_is_confirmed() -> None:
    first, joiner = Line(1), Line(1)
    converge([first], 10, 10)
    joiner.confirm(1)
    joiner.hear(-1)
    assert share([first.grant, joiner.grant], 10, 10, 0)
    assert first.grant.limit == 5 and first.grant.ceiling == 10
    assert joiner.grant.limit == 0
    first.state()
    assert not share([first.grant, joiner.grant], 10, 10, 0) and joiner.grant.limit == 0
    first.send(8)  # by the old limit
    first.deliver(-1)
    first.confirm(0)
    first.hear(-1)
    assert first.grant.ceiling == 8
    share([first.grant, joiner.grant], 10, 10, 0)
    assert joiner.grant.limit == 2


def test_an_old_confirm_does_not_lower() -> None:
    grant = Grant()
    grant.raise_to(10)
    grant.issue(1)
    grant.limit = 4
    grant.issue(2)
    grant.confirm(1, 0)
    assert grant.ceiling == 10
    grant.confirm(2, 7)
    assert grant.ceiling == 7
    grant.confirm(1, 10)
    assert grant.ceiling == 7
    grant.confirm(2, 7)
    assert grant.ceiling == 7


def test_a_confirm_of_a_statement_never_made_changes_nothing_before_the_first() -> None:
    grant = Grant()
    grant.confirm(99, 5)
    assert grant.ceiling == 0


def test_an_oversize_message_waits_until_it_is_alone() -> None:
    big, other = Line(), Line()
    converge([big, other], 100, 100)
    other.send(30)
    other.receive()
    big.wants = 250
    converge([big, other], 100, 100)
    assert big.limit < 250
    other.grant.released = 30
    converge([big, other], 100, 100)
    assert big.limit == 250


@pytest.mark.parametrize(
    ("needs", "bound"),
    [([60, 60], 100), ([200, 200], 100), ([16, 16, 16, 16, 16], 64), ([1, 99, 60, 200, 100], 100), ([7] * 9, 8)],
)
def test_producers_that_all_need_more_than_their_share_are_served_in_turn(needs: list[int], bound: int) -> None:
    lines = [Line() for _ in needs]
    converge(lines, bound, bound)
    for line, need in zip(lines, needs, strict=True):
        line.wants = need
    served = [0] * len(lines)
    for _ in range(12 * len(lines)):
        converge(lines, bound, bound, rounds=1)
        for n, line in enumerate(lines):
            served[n] += line.serve()
    assert min(served) >= 2


@pytest.mark.parametrize("needs", [[60, 60], [99, 99, 99]])
def test_of_those_that_starve_one_at_a_time_is_favoured_and_nobody_twice_before_the_others(needs: list[int]) -> None:
    lines = [Line(need) for need in needs]
    order = []
    for _ in range(60):
        converge(lines, 100, 100, rounds=1)
        able = [n for n, line in enumerate(lines) if line.sent + line.wants <= line.limit]
        assert len(able) <= 1
        for n in able:
            assert lines[n].serve()
            order.append(n)
    assert len(order) >= 2 * len(lines)
    for at in range(len(order) - len(lines) + 1):
        assert len(set(order[at : at + len(lines)])) == len(lines)


@pytest.mark.parametrize("needs", [[2021, 2021], [2021, 2021, 5000], [999, 999], [1001, 1]])
def test_two_oversize_producers_cause_no_storm(needs: list[int]) -> None:
    """What is granted is not taken back by the call that made it, nor by the next: limits come to rest until it is used."""
    lines = [Line(need) for need in needs]
    converge(lines, 1000, 1000, rounds=10)
    limits = [line.limit for line in lines]
    able = [n for n, line in enumerate(lines) if line.limit >= line.wants]
    assert able
    assert converge(lines, 1000, 1000, rounds=20) == 0
    assert [line.limit for line in lines] == limits
    for n in able:
        assert lines[n].serve()
    converge(lines, 1000, 1000, rounds=10)
    assert any(line.limit - line.sent >= line.wants for n, line in enumerate(lines) if n not in able)


def test_a_grant_is_not_taken_back_by_the_call_that_made_it() -> None:
    first, second = Line(), Line()
    first.wants = second.wants = 2021
    converge([first, second], 1000, 1000)
    assert sorted([first.limit, second.limit]) == [0, 2021]


@pytest.mark.parametrize(("bound", "producers"), [(1, 2), (2, 3), (4, 9), (3, 20)])
def test_more_producers_than_the_bound_has_messages_all_get_their_turn(bound: int, producers: int) -> None:
    lines = [Line(1) for _ in range(producers)]
    served = [0] * producers
    for _ in range(10 * producers):
        converge(lines, bound, bound, rounds=1)
        for n, line in enumerate(lines):
            served[n] += line.serve()
    assert min(served) >= 2


@pytest.mark.parametrize(("bound", "producers"), [(1, 2), (2, 3), (4, 9)])
def test_an_idle_producer_does_not_starve_another_for_ever(bound: int, producers: int) -> None:
    """The room that idle ones were given goes to who says that it needs it."""
    lines = [Line() for _ in range(producers)]
    converge(lines, bound, bound)
    for line in lines:
        line.wants = 1
        converge(lines, bound, bound)
        assert line.serve()
        line.wants = 0


def test_a_promise_is_over_when_the_need_is() -> None:
    """What a producer needed room for went to a sibling of this consumer: it says so, and another gets the room."""
    first, second = Line(1), Line(1)
    converge([first, second], 1, 1)
    [able, other] = sorted([first, second], key=lambda line: -line.limit)
    assert (able.limit, other.limit) == (1, 0)
    able.wants = 0
    converge([able, other], 1, 1)
    assert (able.limit, other.limit) == (0, 1)


def test_while_one_is_favoured_what_is_free_goes_to_nobody_else() -> None:
    big, small = Line(90), Line()
    converge([small], 100, 20)
    small.wants = 1
    for _ in range(20):
        converge([big, small], 100, 20, rounds=1)
        if big.serve():
            return
        small.serve()
    pytest.fail("small ones kept the large one from its room")


def test_low_and_promised_are_states_of_what_was_stated() -> None:
    grant = Grant()
    grant.raise_to(10)
    assert grant.low
    grant.issue(1)
    assert not grant.low
    grant.receive(6)
    grant.released = 6
    grant.raise_to(16)
    assert grant.low, "4 of 10 left, and 6 more could be stated"
    grant.need = 30
    assert grant.starving and not grant.promised
    grant.promise(40, 3)
    assert grant.promised and not grant.starving and (grant.turn, grant.ceiling, grant.limit) == (3, 40, 40)
    grant.receive(1)
    assert not grant.promised and grant.need == 0


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(1, 60), st.integers(0, 60))
def test_nothing_starves_once_all_is_released_and_confirmed(held: list[int], bound: int, window: int) -> None:
    """With room for one message a producer and nothing held, everybody may send."""
    bound = max(bound, len(held))
    lines = [Line(1) for _ in held]
    for line, n in zip(lines, held, strict=True):
        converge(lines, bound, max(1, min(window, bound)), rounds=2)
        for _ in range(n):
            line.send(1)
            line.receive()
    for line in lines:
        line.grant.released = line.grant.received
    converge(lines, bound, max(1, min(window, bound)))
    assert all(line.limit > line.sent for line in lines)


def test_nobody_no_grants() -> None:
    assert not share([], 10, 10, 0)


@pytest.mark.parametrize(("bound", "size", "heads", "most"), [(1, 200, 5, 50), (1, 5000, 9, 900), (2, 200, 9, 50)])
def test_needs_are_met_in_both_units_for_the_same_producer(bound: int, size: int, heads: int, most: int) -> None:
    policy = StagePolicy(queue=Bound(bound, size))
    head = Spec("a", messages=40, instances=heads, size=lambda id: int(id.split(":")[1]) * 7919 % (most + 1))
    sim = Simulation([head, Spec("b", inputs=(("a", ""),), policy=policy)], largest=2 * most)
    assert sim.run(seconds=60.0)
    assert len(sim.stored) == 40 * heads and not sim.problems
