"""Three nats-servers that are one cluster with JetStream, on loopback. Must not live here: what is tested with them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from broker_servers import Nats
from pipeline import wait_until
from ports import free_ports
from server import START_S

SERVERS = 3


class ClusterNats(Nats):
    """One of them."""

    def __init__(self, folder: Path, number: int, routes: Sequence[int]) -> None:
        super().__init__(folder)
        self.name = f"s{number}"
        self._route = routes[number]
        self._routes = routes

    def command(self) -> list[str]:
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in self._routes)
        cluster = ["-n", self.name, "--cluster_name", "zpipe", "--cluster", f"nats://127.0.0.1:{self._route}"]
        return [*super().command(), *cluster, "--routes", routes]

    def check(self) -> None:
        """It answers; whether the cluster does is another matter."""

        async def answers(client: Any, jetstream: Any) -> None:
            await client.flush()

        self.do(answers)


class NatsCluster:
    """`urls` are of all servers. One of them can be killed and started again like any server."""

    def __init__(self, servers: list[ClusterNats]) -> None:
        self.servers = servers
        self.urls = [server.url for server in servers]

    @property
    def username(self) -> str:
        return self.servers[0].username

    @property
    def password(self) -> str:
        return self.servers[0].password

    def start(self) -> None:
        """All that do not run, and waits until the cluster has a leader."""
        for server in self.servers:
            server.start()
        wait_until(self._works, "the cluster works", START_S)

    def _works(self) -> bool:
        async def asked(client: Any, jetstream: Any) -> None:
            await jetstream.account_info()

        try:
            self.servers[0].do(asked)
        except Exception:
            return False
        return True

    def leader_of(self, stream: str) -> ClusterNats:
        """Which server leads a stream."""

        async def asked(client: Any, jetstream: Any) -> str:
            return str((await jetstream.stream_info(stream)).cluster.leader)

        running = next(server for server in self.servers if server.running)
        name = running.do(asked)
        return next(server for server in self.servers if server.name == name)

    def stream(self, name: str) -> Any:
        """Its state."""

        async def asked(client: Any, jetstream: Any) -> Any:
            return (await jetstream.stream_info(name)).state

        return self.servers[0].do(asked)


@contextmanager
def running_cluster() -> Iterator[NatsCluster]:
    """Skips the test where there is no nats-server, as `running` does."""
    ClusterNats.require()
    root = Path(tempfile.mkdtemp(prefix="zp-", dir="/tmp"))
    routes = free_ports(SERVERS)
    servers = []
    for number in range(SERVERS):
        folder = root / str(number)
        folder.mkdir()
        servers.append(ClusterNats(folder, number, routes))
    cluster = NatsCluster(servers)
    try:
        cluster.start()
        yield cluster
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(root, ignore_errors=True)
