"""Who is refused between hosts, which are network namespaces: both ends say why in their logs, snapshots, monitors and doctors,
and nothing is delivered."""

from __future__ import annotations

import os
import signal

import pytest
from network import Network
from pipeline import wait_until
from spread import DEADLINE_S, HOSTS, Spread

pytestmark = pytest.mark.timeout(900)
OTHER = "Z" * 40


def assert_nothing_comes(spread: Spread) -> None:
    """Between web1 and web2: neither from left.1 to right.1, nor from read.1 to left.1."""
    assert not [row for row in spread.instance("web1", "right.1")["sessions"] if row["instance"] == 1]
    assert spread.instance("web2", "left.1")["received"] == 0


@pytest.mark.parametrize(
    ("fault", "told", "noted"),
    [
        ("no key", "web2 asks for a key and this host has none", "shown "),
        (
            "unknown client",
            "web2 does not know this host's key, or has dropped it",
            "has a key that is not trusted here",
        ),
        ("wrong server key", "web2 does not have the key that is trusted for it here", "expects another key of web2"),
    ],
)
def test_a_refusal_is_named_at_both_ends(net: Network, fault: str, told: str, noted: str) -> None:
    """right.1 on web1 is a client of left.1 on web2, which it reads from."""
    spread = Spread(net, 1_000_000, rate=500)
    match fault:
        case "no key":
            spread.paths["web1"].write_text(spread.paths["web1"].read_text() + "[security]\ninsecure = true\n")
        case "unknown client":
            net.trust("web2", spread.keys | {"web1": OTHER})
        case "wrong server key":
            net.trust("web1", spread.keys | {"web2": OTHER})
    spread.start(*reversed(HOSTS))
    spread.expect("web1", told, "right.1")
    spread.expect("web2", noted, "left.1")
    assert_nothing_comes(spread)


def test_a_key_that_is_dropped_ends_its_sessions_and_is_named_at_both_ends(net: Network) -> None:
    spread = Spread(net, 1_000_000, rate=500)
    spread.start(*reversed(HOSTS))
    wait_until(lambda: spread.instance("web2", "left.1")["received"], "web2 is sent messages by web1", DEADLINE_S)
    net.trust("web2", spread.keys | {"web1": ""})
    for pid in net.hosts["web2"].instances():
        os.kill(pid, signal.SIGHUP)
    spread.expect("web1", "web2 does not know this host's key, or has dropped it", "right.1")
    spread.expect("web2", f"still uses a key of web1 that was dropped ({spread.keys['web1']})", "left.1")
    received = spread.instance("web2", "left.1")["received"]
    stored = spread.stored()
    spread.wait_for(stored + 1000, "web3 goes on, to which all of it goes now")
    assert spread.instance("web2", "left.1")["received"] == received
    assert spread.instance("web2", "left.1")["sessions"] == []


def test_the_key_of_another_stage_is_refused(net: Network) -> None:
    """By its own config web3 has left.1, which is web2's by that of the others: it says hello by the wrong key."""
    spread = Spread(net, 1_000_000, rate=500)
    path = spread.paths["web3"]
    path.write_text(path.read_text().replace('host = ["web2", "web3"]', 'host = ["web3", "web2"]'))
    spread.start("web1", "web3")
    reason = "left.1 runs on host 'web2', and this is a key of host 'web3'"
    spread.expect("web3", reason, "left.1")
    spread.expect("web1", reason, "read.1")
    assert spread.instance("web3", "left.1")["received"] == 0
