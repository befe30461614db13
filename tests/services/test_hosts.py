"""A pipeline of four stages on three hosts, which are network namespaces, with keys: lines cut, hosts killed, an address
changed. Every message is stored once."""

from __future__ import annotations

import random

import pytest
from network import Network
from spread import HOSTS, Spread

pytestmark = pytest.mark.timeout(900)


def test_a_cable_pulled_a_host_killed_an_address_changed(net: Network) -> None:
    count = 40_000
    spread = Spread(net, count, rate=2500)
    spread.start(*reversed(HOSTS))
    spread.wait_for(2_000, "all hosts work together")
    net.hosts["web3"].cut()
    before = spread.stored()
    spread.wait_for(before + 4_000, "the others go on without it")
    net.hosts["web3"].heal()
    net.hosts["web2"].kill()
    spread.start("web2")
    spread.wait_for(spread.stored() + 3_000, "the host that was killed works again")
    net.hosts["web1"].move(101)
    spread.wait_for(spread.stored() + 4_000, "the host with another address is found")
    spread.end(count)


@pytest.mark.stress
def test_lines_cut_and_hosts_killed_at_random(net: Network) -> None:
    count, chance = 200_000, random.Random(16)
    spread = Spread(net, count, rate=3000)
    spread.start(*reversed(HOSTS))
    spread.wait_for(2_000, "all hosts work together")
    step, turn = 0, 0
    while spread.stored() < count * 0.8:
        host = net.hosts[chance.choice(HOSTS)]
        turn += 1
        if turn % 3 == 0:
            host.kill()
            spread.start(host.name)
        else:
            host.cut()
            spread.runs["web1"].over_within(chance.uniform(0.2, 9.0))
            host.heal()
        step = spread.stored()
        spread.wait_for(step + 1_000, f"it goes on after turn {turn}, on {host.name}")
    spread.end(count)
