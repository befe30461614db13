"""How much a neighbour with a key may send that it should not."""

from __future__ import annotations

from pathlib import Path

import pytest

from zpipe.daemon.service.peer_limits import (
    BURST,
    BURST_OF_HOST,
    LEFT_S,
    MALFORMED,
    MOST_CONNECTIONS,
    PER_S,
    PLAIN,
    PeerLimits,
)

ROOT = Path(__file__).parents[3]


def charges(limits: PeerLimits, connection: int, cost: float, now: float, host: str = "web3") -> int:
    """How many frames it takes to be sent away."""
    count = 1
    while limits.charge(connection, host, cost, now):
        count += 1
    return count


def test_a_burst_is_let_pass_and_no_more() -> None:
    limits = PeerLimits()
    assert charges(limits, 7, PLAIN, 0.0) == BURST + 1
    assert charges(limits, 8, MALFORMED, 0.0) == BURST / MALFORMED + 1


@pytest.mark.parametrize("page", ["docs/hosts.md", "zpipe/core/PROTOCOL.md"])
def test_pages_say_how_much_is_too_much(page: str) -> None:
    text = (ROOT / page).read_text()
    assert f"{BURST:,.0f} frames that no session" in text or f"20, or {BURST:,.0f} at once" in text
    assert BURST / MALFORMED == 20


def test_a_hello_a_second_that_is_refused_is_never_too_much() -> None:
    limits = PeerLimits()
    assert all(limits.charge(7, "web3", PLAIN, float(second)) for second in range(100_000))
    assert not limits.ended


def test_whoever_comes_again_has_no_new_burst_each_time() -> None:
    limits, sent, connections = PeerLimits(), 0, 0
    while (more := charges(limits, connections, PLAIN, 0.0)) > 1:
        sent += more
        connections += 1
    assert BURST_OF_HOST - BURST <= sent <= BURST_OF_HOST + 2 * BURST
    assert charges(limits, 99, PLAIN, 0.0, host="web1") > 1, "another host has an allowance of its own"
    assert charges(limits, 100, PLAIN, 1.0) > PER_S, "and this one again, after a while"


def test_what_an_ended_connection_has_left_is_passed_over_and_its_number_is_free_soon() -> None:
    limits = PeerLimits()
    charges(limits, 7, MALFORMED, 0.0)
    assert limits.ended and limits.is_ended(7, LEFT_S / 2) and not limits.is_ended(8, LEFT_S / 2)
    assert not limits.is_ended(7, LEFT_S) and not limits.ended


def test_any_number_of_connections_takes_bounded_memory() -> None:
    limits = PeerLimits()
    for connection in range(3 * MOST_CONNECTIONS):
        limits.charge(connection, "web3", PLAIN, 0.0)
    assert len(limits._connections) <= MOST_CONNECTIONS
