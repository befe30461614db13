"""Whole pipelines of cores, random ones, with everything that can go wrong going wrong.

A failure prints the scenario. A seed plays again, and is shortened, by `python tests/core/pipeline_run.py SEED SEED+1`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pipeline_run import play
from random_scenario import make

from zpipe.core.downstream.outlet import Outlet
from zpipe.core.downstream.outlet_session import OutletSession
from zpipe.core.ledger import Derivation, EachDerivation
from zpipe.core.processing.dead_letters import DeadLetters
from zpipe.core.ranges import RangeSet
from zpipe.core.source_positions import SourcePositions
from zpipe.core.upstream import credit
from zpipe.core.upstream.credit import Grant
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.upstream.upstreams import Upstreams, UpstreamsState
from zpipe.core.work.delivery import Slice


def check(chance: random.Random, kinds: str) -> None:
    scenario = make(chance, kinds)
    problems = play(scenario)
    if problems:
        pytest.fail("\n".join([repr(scenario), *problems]))


@pytest.mark.parametrize("block", range(6))
def test_nothing_is_lost_whatever_goes_wrong(block: int) -> None:
    for seed in range(20 * block, 20 * block + 20):
        check(random.Random(seed), "all")


@pytest.mark.parametrize("kinds", ["storm", "broken"])
def test_nothing_is_lost_when_much_goes_wrong(kinds: str) -> None:
    for seed in range(20):
        check(random.Random(seed), kinds)


@pytest.mark.parametrize("block", range(3))
def test_each_message_is_done_once_when_nothing_goes_wrong(block: int) -> None:
    """Instances that leave or join late, and a drain in the middle, are nothing wrong. The ledger balances."""
    for seed in range(30 * block, 30 * block + 30):
        check(random.Random(seed), "gentle")


def test_order_is_kept_with_one_consumer_and_one_worker() -> None:
    for seed in range(40):
        check(random.Random(seed), "calm")


@settings(
    derandomize=True,
    max_examples=25,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.randoms(use_true_random=False))
def test_nothing_is_lost_by_the_choice_of_hypothesis(chance: random.Random) -> None:
    check(chance, "all")


# ---- the checks above find bugs: each of these is small, and is found


def ack_early(patch: pytest.MonkeyPatch) -> None:
    """An input is acked when its task is done, not when its outputs are acked."""
    for kind in (Derivation, EachDerivation):
        patch.setattr(kind, "expect", lambda self, messages=1, owners=None: None)
        patch.setattr(kind, "settle", lambda self, messages=1, owners=None: None)


def forget_a_flight(patch: pytest.MonkeyPatch) -> None:
    """Of what was in flight in a session that is closed, the first parcel is taken for acked."""
    close = Outlet.close

    def broken(self: Outlet, session: OutletSession) -> None:
        if session.flights:
            flight = session.flights.pop(min(session.flights))
            for _, section in flight.sections:
                self.acked += section.count
                self._remove_in_flight(section)
                section.settle()
        close(self, session)

    patch.setattr(Outlet, "close", broken)


def release_twice(patch: pytest.MonkeyPatch) -> None:
    """The credit of every seventh slice comes back twice."""
    release = Inlet.release
    calls = iter(range(10**9))

    def broken(self: Inlet, piece: Slice) -> None:
        release(self, piece)
        if next(calls) % 7 == 6:
            release(self, piece)

    patch.setattr(Inlet, "release", broken)


def lose_when_cutting(patch: pytest.MonkeyPatch) -> None:
    """Of several messages taken from the queue at once the last is taken for done."""
    take = Inlet.take

    def broken(self: Inlet, messages: int, bytes_: int) -> list[Slice]:
        taken = take(self, messages, bytes_)
        last = taken[-1]
        if last.count > 1:
            lost = last.part(last.count - 1, last.count)
            taken[-1] = last.part(0, last.count - 1)
            self._counts.in_process -= 1
            self._counts.completed += 1
            self.release(lost)
            lost.finish()
        return taken

    patch.setattr(Inlet, "take", broken)


def call_it_a_duplicate(patch: pytest.MonkeyPatch) -> None:
    """What was dropped from the queue with its session is taken for held when it comes again."""
    patch.setattr(RangeSet, "remove", lambda self, start, stop: None)


def lower_without_confirm(patch: pytest.MonkeyPatch) -> None:
    """Room that is taken back is given to others before its producer has read that."""
    take_back = credit._take_back

    def broken(grants: list[Grant], fair: int, crowded: bool) -> bool:
        lowered = take_back(grants, fair, crowded)
        for grant in grants:
            grant.ceiling = max(grant.limit, grant.received)
        return lowered

    patch.setattr(credit, "_take_back", broken)


def commit_early(patch: pytest.MonkeyPatch) -> None:
    """A source commits past a run that is not finished when a later one is."""
    advance = SourcePositions.advance

    def broken(self: SourcePositions) -> None:
        if any(run.finished for run in self._runs):
            self._runs[0].finished = True
        advance(self)

    patch.setattr(SourcePositions, "advance", broken)


def take_unwritten_for_written(patch: pytest.MonkeyPatch) -> None:
    """A dead letter that could not be written is taken for written."""
    written = DeadLetters.written
    patch.setattr(DeadLetters, "written", lambda self, letter, stored, now: written(self, letter, True, now))


def stop_before_upstream(patch: pytest.MonkeyPatch) -> None:
    """A stage stops once all it has is acked, though its upstream may have to send something again."""
    recount = Upstreams._recount

    def wrong(self: Upstreams) -> UpstreamsState:
        state = recount(self)
        return state._replace(stopped=state.ended)

    patch.setattr(Upstreams, "_recount", wrong)


BUGS = [
    ack_early,
    forget_a_flight,
    release_twice,
    lose_when_cutting,
    call_it_a_duplicate,
    lower_without_confirm,
    commit_early,
    take_unwritten_for_written,
    stop_before_upstream,
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    assert any(play(make(random.Random(seed), kinds)) for seed in range(40) for kinds in ("broken", "storm"))
