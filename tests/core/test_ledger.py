from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.ledger import Counts, Derivation


class Share:
    def __init__(self) -> None:
        self.finished = 0

    def finish(self) -> None:
        self.finished += 1


def test_inputs_finish_when_it_is_closed_and_all_is_settled() -> None:
    shares = [Share(), Share()]
    derivation = Derivation([shares[0]])
    derivation.expect()
    derivation.expect()
    derivation.settle()
    derivation.add_input(shares[1])
    derivation.close()
    assert [s.finished for s in shares] == [0, 0]
    derivation.settle()
    assert [s.finished for s in shares] == [1, 1]


def test_settled_before_it_is_closed_it_waits_for_the_close() -> None:
    share = Share()
    derivation = Derivation([share])
    derivation.expect()
    derivation.settle()
    assert not share.finished
    derivation.close()
    assert share.finished == 1


def test_without_outputs_the_close_finishes() -> None:
    share = Share()
    Derivation([share]).close()
    assert share.finished == 1


def test_what_cannot_be() -> None:
    with pytest.raises(AssertionError):
        Derivation([]).settle()
    closed = Derivation([])
    closed.close()
    with pytest.raises(AssertionError):
        closed.close()


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 12))
def test_inputs_finish_exactly_once_whatever_the_order(steps: list[bool], close_at: int) -> None:
    """True expects, False settles what is pending; after the close a task expects no more, but what was cut does."""
    share, pending, closed = Share(), 0, False
    derivation = Derivation([share])
    for n, expect in enumerate(steps):
        if n == close_at:
            derivation.close()
            closed = True
        if expect and (not closed or pending):
            derivation.expect()
            pending += 1
        elif pending:
            derivation.settle()
            pending -= 1
        assert share.finished == (closed and not pending)
    if not closed:
        derivation.close()
    for _ in range(pending):
        assert not share.finished
        derivation.settle()
    assert share.finished == 1


def test_the_identity_of_counts() -> None:
    counts = Counts(
        received=21, completed=1, filtered=2, dead=3, returned=4, in_process=5, queued=6, duplicates=9, retries=9
    )
    assert counts.off() == 0
    counts.queued -= 1
    assert counts.off() == 1
