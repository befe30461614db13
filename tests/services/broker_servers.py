"""The brokers that are tested against, as `servers.py` has the databases."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import needs
from ports import free_ports
from server import Server

T = TypeVar("T")


class Redis(Server):
    program = "redis-server"
    need = "redis"
    password = "the right one"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """Its file is written before it answers, so a kill of it loses nothing; only a loss of power could."""
        words = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "requirepass": self.password}
        more = {"appendonly": "yes", "appendfsync": "everysec", "save": ""}
        return [
            str(self.found()),
            *(word for key, value in {**words, **more}.items() for word in (f"--{key}", str(value))),
        ]

    def client(self) -> object:
        import redis

        return redis.Redis(port=self.port, password=self.password)

    def check(self) -> None:
        import redis

        with redis.Redis(port=self.port, password=self.password) as client:
            client.ping()


class Nats(Server):
    program = "nats-server"
    need = "nats-server"
    username = "zpipe"
    password = "the right one"

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        words = {"p": self.port, "a": "127.0.0.1", "sd": self.folder, "user": self.username, "pass": self.password}
        return [str(self.found()), "-js", *(word for key, value in words.items() for word in (f"-{key}", str(value)))]

    def do(self, what: Callable[[Any, Any], Awaitable[T]]) -> T:
        """Calls it with a connection and its JetStream, on an event loop of its own."""
        import nats

        async def connected() -> T:
            client = await nats.connect(
                self.url, user=self.username, password=self.password, allow_reconnect=False, error_cb=_quiet
            )
            try:
                return await what(client, client.jetstream())
            finally:
                await client.close()

        return asyncio.run(connected())

    def check(self) -> None:
        async def answers(client: Any, jetstream: Any) -> None:
            await jetstream.account_info()

        self.do(answers)


async def _quiet(error: Exception) -> None:
    """The client would log what it raises anyway."""


class Mosquitto(Server):
    program = "mosquitto"
    need = "mosquitto"
    username = "zpipe"
    password = "the right one"
    user = "mosquitto"

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def make(self) -> None:
        """A session keeps all that comes while its client is away. What it holds does not outlive a kill of Mosquitto."""
        secrets = self.folder / "passwords"
        self.call("mosquitto_passwd", "-c", "-b", secrets, self.username, self.password)
        (self.folder / "conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {secrets}\n"
            f"persistence true\npersistence_location {self.folder}/\n"
            "max_inflight_messages 0\nmax_queued_messages 0\nset_tcp_nodelay true\nmax_packet_size 100000\n"
        )

    def command(self) -> list[str]:
        return [str(self.found()), "-c", str(self.folder / "conf")]


class RabbitMQ(Server):
    program = "rabbitmq-server"
    need = "rabbitmq"
    place = needs.SERVER_PLACES["rabbitmq"][1]
    user = "rabbitmq"
    password = "guest"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.distribution_port, self.epmd_port = free_ports(2)

    @property
    def url(self) -> str:
        return f"amqp://127.0.0.1:{self.port}/"

    def make(self) -> None:
        """A node with an epmd of its own, which runs in the foreground: nothing of it outlives the tests, whatever ends them."""
        die = "setpriv --pdeathsig KILL --"
        (self.folder / "plugins").write_text("[].")
        script = self.folder / "start"
        script.write_text(f"#!/bin/sh\n{die} epmd -port {self.epmd_port} -address 127.0.0.1 &\nexec {self.place}\n")
        erlang = self.folder / "bin" / "erl"
        erlang.parent.mkdir()
        erlang.write_text(f'#!/bin/sh\nexec {die} {shutil.which("erl")} "$@"\n')
        for path in (script, erlang):
            path.chmod(0o755)
        for path in (self.folder / "plugins", script, erlang.parent, erlang):
            path.chmod(path.stat().st_mode | 0o055)

    def environment(self) -> dict[str, str]:
        folder = str(self.folder)
        return {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "RABBITMQ_NODENAME": f"zpipe{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false",
            "RABBITMQ_MNESIA_BASE": f"{folder}/base",
            "RABBITMQ_LOG_BASE": f"{folder}/logs",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_CONFIG_FILE": f"{folder}/none",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
        }

    def command(self) -> list[str]:
        return [str(self.folder / "start")]

    def stop(self) -> None:
        if self.running:
            self.kill()  # its script does not pass a signal on

    def keeps(self, queue: str) -> bool:
        """Whether a durable queue outlives a kill. RabbitMQ says that it is declared when mnesia's log has it. That this is
        committed the log says up to two seconds later, and of what it does not say so, the next start knows nothing."""
        name, files = queue.encode(), self.folder / "base"
        [log] = files.glob("*/LATEST.LOG")
        _, found, after = log.read_bytes().rpartition(name)
        return bool(found and b"committed" in after) or any(
            name in path.read_bytes() for path in files.glob("*/rabbit_durable_queue.DC?")
        )

    def do(self, what: Callable[[Any], Awaitable[T]]) -> T:
        """Calls it with a channel, on an event loop of its own."""
        import aio_pika

        async def connected() -> T:
            connection = await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{self.port}/", timeout=10)
            async with connection:
                return await what(await connection.channel())

        return asyncio.run(connected())

    def check(self) -> None:
        async def answers(channel: Any) -> None:
            pass

        self.do(answers)
