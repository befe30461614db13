"""Network namespaces as hosts: each has an address of its own on one switch, folders of its own, and lines that can be cut.

Needs root. A line is cut at the switch, as if somebody pulled the cable there: neither end is told.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline import Command

NET, NET6 = "10.99.0", "fd99"


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


class Host:
    """One namespace. Its name is also that of the host in the config, and resolves to its address by a file of the hosts' own."""

    def __init__(self, network: Network, name: str, number: int) -> None:
        self.name = name
        self.space = f"{network.prefix}-{name}"
        self.folder = network.home / name
        (self.folder / "out").mkdir(parents=True)
        self._network = network
        self.more_env: dict[str, str] = {}
        self.address = f"{NET}.{number}"
        self._plug = f"p{number}"
        ip("netns", "add", self.space)
        ip("-n", self.space, "link", "set", "lo", "up")
        ip("-n", network.switch, "link", "add", self._plug, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        ip("-n", network.switch, "link", "set", self._plug, "master", "br0", "up")
        ip("-n", self.space, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.space, "link", "set", "eth0", "up")

    @property
    def env(self) -> dict[str, str]:
        where = {"ZPIPE_RUNTIME_DIR": "r", "ZPIPE_STATE_DIR": "s", "ZPIPE_KEYS_DIR": "k"}
        own = {name: str(self.folder / folder) for name, folder in where.items()}
        return dict(os.environ) | own | {"ZPIPE_HOST": self.name} | self.more_env

    def zpipe(self, *arguments: str) -> Command:
        """A command on this host."""
        prefix = ["ip", "netns", "exec", self.space]
        hosts = f'mount --bind {self._network.hosts_file} /etc/hosts && exec "$@"'
        command = Command(list(arguments), self.folder / "out", self.env, within=[*prefix, "sh", "-c", hosts, "sh"])
        self._network.commands.append(command)
        return command

    def cut(self) -> None:
        ip("-n", self._network.switch, "link", "set", self._plug, "down")

    def heal(self) -> None:
        ip("-n", self._network.switch, "link", "set", self._plug, "up")

    def move(self, number: int) -> None:
        """Gives it another address, by which the others find it from now on. What comes from the old one comes no more."""
        old, self.address = self.address, f"{NET}.{number}"
        ip("-n", self.space, "addr", "del", f"{old}/24", "dev", "eth0")
        ip("-n", self.space, "addr", "add", f"{self.address}/24", "dev", "eth0")
        self._network.write_hosts()

    def become_ipv6(self) -> None:
        """Gives it an address of IPv6 in place of its own."""
        old, self.address = self.address, f"{NET6}::{self.address.rpartition('.')[2]}"
        ip("-n", self.space, "addr", "del", f"{old}/24", "dev", "eth0")
        ip("-n", self.space, "addr", "add", f"{self.address}/64", "dev", "eth0", "nodad")
        self._network.write_hosts()

    def connections_to(self, address: str) -> set[tuple[str, str]]:
        """Both ends of each tcp connection that this host has with another, as far as it knows."""
        command = ["ip", "netns", "exec", self.space, "ss", "-Htn", "state", "established", "dst", address]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return {(here, there) for _, _, here, there, *_ in map(str.split, shown.splitlines())}

    def instances(self) -> list[int]:
        """The pids of the daemons of a run that work on it."""
        pids = map(int, ip("netns", "pids", self.space).split())
        return [pid for pid in pids if b"stage" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]

    def kill(self) -> None:
        """`kill -9` of everything that runs on it."""
        for pid in ip("netns", "pids", self.space).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


class Network:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.prefix = f"zp{os.getpid()}"
        self.switch = f"{self.prefix}-sw"
        self.hosts_file = home / "hosts"
        self.commands: list[Command] = []
        self.hosts: dict[str, Host] = {}

    def add(self, *names: str) -> None:
        for number, name in enumerate(names, len(self.hosts) + 1):
            self.hosts[name] = Host(self, name, number)
        self.write_hosts()

    def write_hosts(self) -> None:
        """Into the file that is there: it is mounted in each namespace."""
        self.hosts_file.write_text(
            "127.0.0.1 localhost\n" + "".join(f"{h.address} {h.name}.test\n" for h in self.hosts.values())
        )

    def exchange_keys(self) -> dict[str, str]:
        """Each host has a key, and trusts the others. The public ones, by host."""
        public = {}
        for name, host in self.hosts.items():
            made = host.zpipe("keys", "new", name, "--json")
            assert made.wait() == 0, made.stderr
            public[name] = str(json.loads(made.stdout)["public"])
        for name in self.hosts:
            self.trust(name, public)
        return public

    def trust(self, name: str, keys: dict[str, str]) -> None:
        text = "".join(f"{host} = {json.dumps([key] if key else [])}\n" for host, key in keys.items())
        (self.hosts[name].folder / "k" / "trusted.toml").write_text(text)


@contextmanager
def network(home: Path) -> Iterator[Network]:
    """Nothing of it is left afterwards. Raises OSError if this user may not make one, or the kernel cannot."""
    made = Network(home)
    ip("netns", "add", made.switch)
    try:
        ip("-n", made.switch, "link", "add", "br0", "type", "bridge")
        ip("-n", made.switch, "link", "set", "br0", "up")
        yield made
    finally:
        for host in made.hosts.values():
            host.kill()
        for command in made.commands:
            command.end()
        for space in (made.switch, *(host.space for host in made.hosts.values())):
            with suppress(OSError):
                ip("netns", "del", space)
