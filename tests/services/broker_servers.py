"""The brokers that are tested against, as `servers.py` has the databases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from server import Server

T = TypeVar("T")


class Redis(Server):
    program = "redis-server"
    package = "redis-server"
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
    package = "nats-server"
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
