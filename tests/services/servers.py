"""The servers that are tested against: where each is found, how it is configured and when it answers.

Each is as it comes from Debian, with its files in the test's folder and without what only costs time there (fsync).
"""

from __future__ import annotations

import signal
from typing import ClassVar

from server import Server


class PostgreSQL(Server):
    program = "postgres"
    package = "postgresql"
    places = ("/usr/lib/postgresql/*/bin/postgres",)
    user = "postgres"
    _stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # "fast": does not wait for clients

    superuser = "zpipe"
    password = "the right one"
    max_connections = 30

    @property
    def dsn(self) -> str:
        """By TCP, with the password."""
        return self.dsn_with(self.password)

    def dsn_with(self, password: str) -> str:
        return f"host=127.0.0.1 port={self.port} user={self.superuser} password='{password}' dbname=postgres"

    def make(self) -> None:
        found = self.found()
        assert found is not None
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)  # of a server that lives as long as the tests
        words = ["-A", "scram-sha-256", "--pwfile", str(secret), "-U", self.superuser, "--no-sync", "-E", "UTF8"]
        self.call(found.parent / "initdb", "-D", self.folder / "data", *words)

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "max_connections": self.max_connections,
        }
        flags = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [str(self.found()), "-D", str(self.folder / "data"), *flags]

    def check(self) -> None:
        import psycopg

        psycopg.connect(self.dsn, connect_timeout=5).close()


def closed_port(server: Server) -> int:
    """A port next to the server's at which nobody listens: `free_ports` keeps it free."""
    return server.port + 1
