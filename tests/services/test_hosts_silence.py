"""Neighbours on other hosts, which are network namespaces, that are gone without a word: connections that only one end has, and
instances that have ended for good."""

from __future__ import annotations

import json

import pytest
from network import Network
from pipeline import wait_until
from spread import DEADLINE_S, HOSTS, Spread

pytestmark = pytest.mark.timeout(900)
ENOUGH = 25_000
"""For a source that is there until the slowest host has started: one that starts after its end waits for it, until a drain."""


def test_connections_that_only_one_end_has_are_given_up_and_made_anew(net: Network) -> None:
    """The host loses its line, then its processes, then gets the line back: nobody on the others was told of any of it."""
    count = 30_000
    spread = Spread(net, count, rate=2500)
    spread.start(*reversed(HOSTS))
    spread.wait_for(2_000, "all hosts work together")
    web1, web3 = net.hosts["web1"], net.hosts["web3"]
    before = web1.connections_to(web3.address)
    assert before
    web3.cut()
    web3.kill()
    assert before <= web1.connections_to(web3.address), "half of each is left, and nothing has said so"
    spread.start("web3")
    web3.heal()
    wait_until(lambda: not before & web1.connections_to(web3.address), "what was left is given up", DEADLINE_S)
    spread.wait_for(spread.stored() + 4_000, "it goes on")
    wait_until(lambda: spread.instance("web1", "right.1")["sessions"], "web3 takes part again", DEADLINE_S)
    spread.end(count)


def test_a_line_without_a_word_for_longer_than_any_timeout(net: Network) -> None:
    """Frames are dropped for longer than heartbeats wait, while both ends go on; then the host has another address."""
    count = 150_000
    spread = Spread(net, count, rate=2500)
    spread.start(*reversed(HOSTS))
    spread.wait_for(2_000, "all hosts work together")
    web2 = net.hosts["web2"]
    web2.cut()
    silent = "left.1 on web2 is silent, nothing is connected at web2.test:"
    wait_until(lambda: silent in str(spread.stages("web1")["right"]["refusals"]), "web1 says so", DEADLINE_S)
    web2.move(102)
    web2.heal()
    spread.wait_for(spread.stored() + 4_000, "it goes on at the new address")
    wait_until(lambda: not spread.stages("web1")["right"]["refusals"], "nothing is said of it any more", DEADLINE_S)
    spread.end(count)


def test_what_waits_for_an_upstream_that_has_ended_for_good_is_ended_by_a_drain(net: Network) -> None:
    """web2 and web3 are started again after all is over; their first stage is fed by web1 alone."""
    count = ENOUGH
    spread = Spread(net, count, rate=2500)
    spread.start(*reversed(HOSTS))
    spread.end(count)
    spread.start("web2", "web3")
    silent = "read.1 on web1 is silent, nothing is connected at web1.test:"
    wait_until(lambda: silent in str(spread.stages("web2")["left"]["refusals"]), "web2 says so", DEADLINE_S)
    unproven = net.hosts["web2"].zpipe("drain", str(spread.paths["web2"]))
    assert unproven.wait() == 5
    assert "drain on web1, where its last account is" in unproven.stderr
    drained = net.hosts["web1"].zpipe("drain", str(spread.paths["web1"]), "--json", "--timeout", "60s")
    ledger = drained.ledger()
    assert ledger["stages"]["read"]["completed"] == count
    assert json.loads(drained.stdout)["balanced"]
    assert [spread.runs[host].wait() for host in ("web2", "web3")] == [0, 0], spread.runs["web2"].stderr[-3000:]


def test_hosts_that_have_addresses_of_ipv6_only(net: Network) -> None:
    count = ENOUGH
    for host in net.hosts.values():
        host.become_ipv6()
    spread = Spread(net, count, rate=2500)
    spread.start(*reversed(HOSTS))
    spread.end(count)
