"""A pipeline on two hosts, which are two loopback addresses here, with keys: whole runs, and why somebody is refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e_types import MakePipeline
from pipeline import Command, Pipeline, send, wait_until
from ports import free_ports

from zpipe.runtime.this_host import is_own

CONFIG = """
[pipeline]
name = "p"
port = {port}

[hosts.web1]
address = "127.0.0.1"

[hosts.web2]
address = "{web2}"

[hosts.web3]

[stages.read]
plugin = "generate"
options = {{ {source} }}
host = "web1"

[stages.map]
input = "read"
plugin = "python"
options = {{ function = "map.py:same" }}
host = ["web1", "web2"]

[stages.store]
input = "map"
plugin = "sqlite"
batch = {{ messages = 20, timeout = "50ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
host = "web2"

[telemetry]
interval = "200ms"
"""
WEB2 = "[::1]" if is_own("[::1]") else "127.0.0.2"
"""So that one host has an IPv4 address and one of IPv6, where this machine has any."""
MAP = "def same(payload):\n    return payload\n"
HOSTS = ("web1", "web2", "web3")


class Hosts:
    """The same folder of configs, and for each host folders of its own: for keys, sockets and state."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._commands: list[Command] = []
        public = {}
        for host in HOSTS:
            (self.of(host) / "out").mkdir(parents=True)
            assert self.zpipe(host, "keys", "new", host).wait() == 0
            listed = self.zpipe(host, "keys", "list", "--json")
            assert listed.wait() == 0
            public[host] = json.loads(listed.stdout)["own"][host]["public"]
        self.public: dict[str, str] = public
        for host in HOSTS:
            self.trust(host, **{other: (key,) for other, key in public.items()})

    def of(self, host: str) -> Path:
        return self.pipeline.home / host

    def trust(self, host: str, **keys: tuple[str, ...]) -> None:
        text = "".join(f"{name} = {json.dumps(list(of))}\n" for name, of in keys.items())
        (self.of(host) / "k" / "trusted.toml").write_text(text)

    def zpipe(self, host: str, *arguments: str) -> Command:
        where = {"ZPIPE_RUNTIME_DIR": "r", "ZPIPE_STATE_DIR": "s", "ZPIPE_KEYS_DIR": "k"}
        env = self.pipeline.env | {name: str(self.of(host) / folder) for name, folder in where.items()}
        self._commands.append(Command(list(arguments), self.of(host) / "out", env | {"ZPIPE_HOST": host}))
        return self._commands[-1]

    def run(self, host: str) -> Command:
        return self.zpipe(host, "run", str(self.pipeline.path), "--json", "--host", host, "--log-level", "info")

    def monitored(self, host: str) -> dict[str, dict[str, object]]:
        shown = self.zpipe(host, "monitor", str(self.pipeline.path), "--once", "--json", "--timeout", "60")
        assert shown.wait() == 0, shown.stderr
        stages: dict[str, dict[str, object]] = json.loads(shown.stdout)["stages"]
        return stages

    def end(self) -> None:
        for command in self._commands:
            command.end()


@pytest.fixture
def make_hosts(make: MakePipeline) -> Iterator[Callable[[str], Hosts]]:
    made: list[Hosts] = []

    def make_one(source: str) -> Hosts:
        first = free_ports(1)[0]
        made.append(Hosts(make(CONFIG.format(port=first, source=source, web2=WEB2), map=MAP)))
        return made[-1]

    yield make_one
    for hosts in made:
        hosts.end()


def test_a_pipeline_on_two_hosts_and_a_third_that_watches(make_hosts: Callable[[str], Hosts]) -> None:
    hosts = make_hosts("rate = 1000")
    runs = {host: hosts.run(host) for host in ("web2", "web1")}
    wait_until(lambda: hosts.pipeline.count() > 0, "something is stored")
    stages = hosts.monitored("web3")
    assert {name: len(stage["instances"]) for name, stage in stages.items()} == {"read": 1, "map": 2, "store": 1}  # type: ignore[arg-type]
    assert {name: stage["refusals"] for name, stage in stages.items()} == {name: {} for name in stages}
    assert hosts.zpipe("web3", "drain", str(hosts.pipeline.path)).wait() == 0
    ledgers = {host: run.ledger() for host, run in runs.items()}
    read = ledgers["web1"]["stages"]["read"]["completed"]
    assert hosts.pipeline.count() == read
    assert list(ledgers["web1"]["stages"]) == ["read", "map"]
    assert list(ledgers["web2"]["stages"]) == ["map", "store"]
    maps = [ledgers[host]["stages"]["map"]["completed"] for host in runs]
    assert sum(maps) == read and all(maps)


def test_a_dropped_key_ends_its_sessions_and_both_ends_say_why(make_hosts: Callable[[str], Hosts]) -> None:
    hosts = make_hosts("rate = 500")
    runs = {host: hosts.run(host) for host in ("web2", "web1")}
    wait_until(lambda: hosts.pipeline.count() > 100, "it works")

    def reload_web1() -> None:
        for key, pid in hosts.pipeline.instances().items():
            if key in (("read", 1), ("map", 1)):
                send(pid, signal.SIGHUP)

    all_keys = {name: (key,) for name, key in hosts.public.items()}
    hosts.trust("web1", **(all_keys | {"web2": ()}))
    reload_web1()
    cure = f"run `zpipe keys trust 'web2 = {hosts.public['web2']}'` on web1"
    refused = f"web1 does not know this host's key, or has dropped it: {cure}, and reload there (SIGHUP)"
    wait_until(lambda: refused in runs["web2"].stderr, "web2 says why it is refused")
    dropped = f"still uses a key of web2 that was dropped ({hosts.public['web2']})"
    wait_until(lambda: dropped in runs["web1"].stderr, "web1 says whom it refuses")
    stages = hosts.monitored("web3")
    assert stages["store"]["refusals"] == {"store.1": [refused]}
    assert dropped in str(stages["read"]["refusals"]) and "no key of web2 is trusted here" in str(
        stages["map"]["refusals"]
    )
    stored = hosts.pipeline.count()
    hosts.trust("web1", **all_keys)
    reload_web1()
    wait_until(lambda: hosts.pipeline.count() > stored + 100, "whoever is trusted again is let in")
    drained = hosts.zpipe("web3", "drain", str(hosts.pipeline.path), "--json")
    assert drained.wait() == 0, drained.stderr
    assert json.loads(drained.stdout)["balanced"]
    assert [runs[host].wait() for host in runs] == [0, 0], runs["web2"].stderr[-2000:]
