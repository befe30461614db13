from __future__ import annotations

from itertools import product

import pytest

from zpipe.core.lifecycle import Lifecycle, Move, State

EXPECTED = {
    "STARTING": {"OPENED": "RUNNING", "DRAIN": "DRAINING", "ABANDON": "STOPPED", "FAIL": "FAILED"},
    "RUNNING": {"DRAIN": "DRAINING", "FAIL": "FAILED"},
    "DRAINING": {"FLUSH": "FLUSHED", "ABANDON": "STOPPED", "FAIL": "FAILED"},
    "FLUSHED": {"REFILL": "DRAINING", "STOP": "STOPPED", "ABANDON": "STOPPED", "FAIL": "FAILED"},
    "STOPPED": {},
    "FAILED": {},
}
WAY = {
    "STARTING": [],
    "RUNNING": ["OPENED"],
    "DRAINING": ["DRAIN"],
    "FLUSHED": ["DRAIN", "FLUSH"],
    "STOPPED": ["DRAIN", "FLUSH", "STOP"],
    "FAILED": ["FAIL"],
}


def at(state: str) -> Lifecycle:
    life = Lifecycle()
    assert all(life.make(Move[move]) for move in WAY[state])
    assert life.state is State(state)
    return life


@pytest.mark.parametrize(("state", "move"), list(product(EXPECTED, [move.name for move in Move])))
def test_every_move_in_every_state(state: str, move: str) -> None:
    life = at(state)
    after = EXPECTED[state].get(move)
    assert life.make(Move[move]) == (after is not None)
    assert life.state is State(after or state)


def test_what_states_mean() -> None:
    assert {s for s in EXPECTED if at(s).accepts_input} == {"RUNNING", "DRAINING", "FLUSHED"}
    assert {s for s in EXPECTED if at(s).over} == {"STOPPED", "FAILED"}
    assert set(EXPECTED) == {state.value for state in State}
