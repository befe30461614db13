"""The brokers that are tested against, as `servers.py` has the databases."""

from __future__ import annotations

from server import Server


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
