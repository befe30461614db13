"""zpipe on two hosts, which are two loopback addresses: the source and the sink on one, the map on the other, and a `zpipe run`
for each. Does not belong here: one host, which `benchmarks/peers/zpipe` has.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from benchmarks.peers import roles
from benchmarks.peers.zpipe import Pipeline
from benchmarks.window import Load, Running
from zpipe.transport.curve import new_pair

ADDRESSES = {"web1": "127.0.0.1", "web2": "127.0.0.2"}
HOST_OF = {"source": "web1", "map": "web2", "sink": "web1"}


class PipelineOnHosts:
    """Its runs have the same folder of the config, and each its own of sockets, state and keys."""

    def __init__(self, runs: Mapping[str, Pipeline]) -> None:
        self._runs = runs
        self.tally = runs["web1"].tally

    def pids(self) -> Mapping[str, Sequence[int]]:
        found: dict[str, list[int]] = {}
        for run in self._runs.values():
            for role, of_role in run.pids().items():
                found.setdefault(role, []).extend(of_role)
        return found

    def check(self) -> None:
        for run in self._runs.values():
            run.check()

    def drain(self) -> None:
        """The head is on web1; web2 ends by what comes down the links."""
        self._runs["web1"].drain()
        self._runs["web2"].finish()


@dataclass(frozen=True)
class AcrossHosts:
    """`insecure`: without keys."""

    name: str
    insecure: bool = False

    def text(self, load: Load, public: Mapping[str, str]) -> str:
        lines = ['[pipeline]\nname = "bench"', f"port = {_free_ports()}"]
        for host, address in ADDRESSES.items():
            lines.append(f"[hosts.{host}]\naddress = '{address}'\nkey = '{public[host]}'")
        lines.append(f'[stages.source]\nplugin = "generate"\noptions = {{ {load.payload.options()} }}')
        lines.append('[stages.map]\ninput = "source"\nplugin = "python"')
        lines.append('options = { function = "benchmarks.touch:touch" }')
        note = f'tally = "FOLDER/tally", stride = {load.stride}, timed = false'
        lines.append(f'[stages.sink]\ninput = "map"\nplugin = "./counting_sink.py"\noptions = {{ {note} }}')
        text = "\n".join(lines)
        for stage, host in HOST_OF.items():
            text = text.replace(f"[stages.{stage}]", f'[stages.{stage}]\nhost = "{host}"')
        return text + ("\n[security]\ninsecure = true\n" if self.insecure else "\n")

    @contextmanager
    def running(self, load: Load) -> Iterator[Running]:
        pairs = {host: new_pair() for host in ADDRESSES}
        text = self.text(load, {host: pair.public for host, pair in pairs.items()})
        with roles.folder() as folder, ExitStack() as stack:
            runs = {}
            for host, pair in pairs.items():
                run = Pipeline(folder, text)
                keys = folder / f"{host}-keys"
                keys.mkdir(exist_ok=True)
                (keys / f"{host}.key").touch(0o600)
                (keys / f"{host}.key").write_text(pair.secret)
                own = {"ZPIPE_RUNTIME_DIR": f"{folder}/{host}-r", "ZPIPE_STATE_DIR": f"{folder}/{host}-s"}
                run.env |= own | {"ZPIPE_KEYS_DIR": str(keys), "ZPIPE_HOST": host}
                stack.callback(run.end)
                runs[host] = run
            for run in reversed(runs.values()):
                run.start()
            made = PipelineOnHosts(runs)
            yield made
            made.drain()


def _free_ports() -> int:
    """The first of those that three stages take, below what the kernel gives out by itself."""
    while True:
        first = random.randrange(15_000, 30_000, 300)
        with ExitStack() as stack, suppress(OSError):
            for port in (first, first + 100, first + 200):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
