"""A pipeline of four stages on three hosts, which are network namespaces, with keys: lines cut, hosts killed, an address changed,
keys refused. Every message is stored once."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from network import Network, network
from pipeline import Command, wait_until

CONFIG = """
[pipeline]
name = "p"

[hosts.web1]
address = "web1.test"
[hosts.web2]
address = "web2.test"
[hosts.web3]
address = "web3.test"

[stages.read]
plugin = "generate"
options = {{ count = {count}, rate = {rate} }}
host = "web1"

[stages.left]
input = "read"
plugin = "python"
options = {{ function = "map.py:same" }}
host = ["web2", "web3"]

[stages.right]
input = "left"
plugin = "python"
options = {{ function = "map.py:same" }}
host = ["web1", "web3"]

[stages.store]
input = "right"
plugin = "sqlite"
batch = {{ messages = 200, timeout = "100ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
host = "web2"

[telemetry]
interval = "500ms"
"""
HOSTS = ("web1", "web2", "web3")
pytestmark = pytest.mark.timeout(900)
DEADLINE_S = 240.0


@pytest.fixture
def net(home: Path) -> Iterator[Network]:
    try:
        with network(home) as made:
            made.add(*HOSTS)
            yield made
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")


class Spread:
    """The pipeline on its hosts."""

    def __init__(self, net: Network, count: int, rate: int) -> None:
        self.net = net
        text = CONFIG.format(count=count, rate=rate)
        self.paths = {host: net.home / f"{host}.toml" for host in HOSTS}
        for path in self.paths.values():
            path.write_text(text)
        (net.home / "map.py").write_text("def same(payload):\n    return payload\n")
        self.keys = net.exchange_keys()
        self.runs: dict[str, Command] = {}

    def start(self, *hosts: str) -> None:
        for host in hosts:
            self.runs[host] = self.net.hosts[host].zpipe("run", str(self.paths[host]), "--json", "--log-level", "info")

    def stored(self) -> int:
        try:
            with closing(sqlite3.connect(f"file:{self.net.home}/out.db?mode=ro", uri=True, timeout=30)) as connection:
                return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])
        except sqlite3.OperationalError:
            return 0

    def wait_for(self, count: int, what: str) -> None:
        wait_until(lambda: self.stored() >= count, what, DEADLINE_S)

    def end(self, count: int) -> None:
        """Every run ends well, and each id is stored once."""
        self.wait_for(count, "everything is stored")
        wait_until(lambda: not any(run.running for run in self.runs.values()), "every run ends", 60.0)
        for host, run in self.runs.items():
            code = run.wait()
            assert code == 0, (host, run.stderr[-3000:])
            assert json.loads(run.stdout.splitlines()[-1])["balanced"], (host, run.stdout)
        with closing(sqlite3.connect(self.net.home / "out.db")) as connection:
            found = connection.execute("SELECT count(*), count(DISTINCT id), min(id), max(id) FROM t").fetchone()
        assert found == (count, count, 0, count - 1)

    def stages(self, host: str) -> dict[str, Any]:
        shown = self.net.hosts[host].zpipe("monitor", str(self.paths[host]), "--once", "--json", "--timeout", "4s")
        shown.wait()
        stages: dict[str, Any] = json.loads(shown.stdout)["stages"]
        return stages

    def expect(self, host: str, words: str, stage: str) -> None:
        """The words are in the log of the host, in its monitor and in its doctor's findings."""
        wait_until(lambda: words in self.runs[host].stderr, f"the log of {host} has: {words}", DEADLINE_S)
        assert words in str(self.stages(host)[stage]["refusals"])
        assert words in self.doctor(host)

    def doctor(self, host: str) -> str:
        said = self.net.hosts[host].zpipe("doctor", str(self.paths[host]), "--json", "--timeout", "4s")
        said.wait()
        value = json.loads(said.stdout)
        return "\n".join(f"{one['what']} {one['cure']}" for one in value["findings"] if one["verdict"] == "wrong")


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


OTHER = "Z" * 40


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
    spread.expect("web1", told, "right")
    spread.expect("web2", noted, "left")
    [right] = [one for one in spread.stages("web1")["right"]["instances"] if one["instance"] == 1]
    assert not [row for row in right["sessions"] if row["instance"] == 1], "nothing comes from left.1"


def test_the_key_of_another_stage_is_refused(net: Network) -> None:
    """By its own config web3 has left.1, which is web2's by that of the others: it says hello by the wrong key."""
    spread = Spread(net, 1_000_000, rate=500)
    path = spread.paths["web3"]
    path.write_text(path.read_text().replace('host = ["web2", "web3"]', 'host = ["web3", "web2"]'))
    spread.start("web1", "web3")
    reason = "left.1 runs on host 'web2', and this is a key of host 'web3'"
    spread.expect("web3", reason, "left")
    spread.expect("web1", reason, "read")
    [left] = [one for one in spread.stages("web3")["left"]["instances"] if one["instance"] == 1]
    assert left["received"] == 0
