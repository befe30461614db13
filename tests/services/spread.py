"""A pipeline of four stages on three hosts, which are network namespaces, with keys; and where its words must be found."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

from network import Network
from pipeline import Command, Snapshot, wait_until

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
DEADLINE_S = 240.0


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
        """As the monitor of a host shows them, once it has heard of somebody."""
        return wait_until(lambda: self._shown(host), f"the monitor of {host} shows something", DEADLINE_S)

    def _shown(self, host: str) -> dict[str, Any]:
        shown = self._ask(host, "monitor", "--once", "--json")
        shown.wait()
        stages: dict[str, Any] = json.loads(shown.stdout)["stages"] if shown.stdout else {}
        return stages

    def instance(self, host: str, name: str) -> Snapshot:
        """The last snapshot of an instance, as the monitor of a host has it."""
        number = int(name.rpartition(".")[2])
        [found] = [one for one in self.stages(host)[stage_of(name)]["instances"] if one["instance"] == number]
        return dict(found)

    def expect(self, host: str, words: str, name: str) -> None:
        """The words are in the log of the host, in the snapshots of its instance, in its monitor and in its doctor's findings."""
        wait_until(lambda: words in self.runs[host].stderr, f"the log of {host} has: {words}", DEADLINE_S)
        table, doctor = self._ask(host, "monitor", "--once"), self._ask(host, "doctor", "--json")
        stage = self.stages(host)[stage_of(name)]
        assert any(words in reason for reason in stage["refusals"][name]), stage["refusals"]
        snapshots = [one for one in stage["instances"] if f"{stage_of(name)}.{one['instance']}" == name]
        assert any(words in row["reason"] for one in snapshots for row in one["refusals"])
        table.wait()
        assert "".join(words.split()) in "".join(table.stdout.split()), table.stdout
        assert words in _wrong(doctor)

    def doctor(self, host: str) -> str:
        return _wrong(self._ask(host, "doctor", "--json"))

    def _ask(self, host: str, command: str, *options: str) -> Command:
        """It takes its seconds where instances do not answer, so what asks several begins them all at once."""
        return self.net.hosts[host].zpipe(command, str(self.paths[host]), *options, "--timeout", "4s")


def _wrong(doctor: Command) -> str:
    """What it found wrong, with the cures."""
    doctor.wait()
    findings = json.loads(doctor.stdout)["findings"]
    return "\n".join(f"{one['what']} {one['cure']}" for one in findings if one["verdict"] == "wrong")


def stage_of(name: str) -> str:
    return name.partition(".")[0]
