"""The servers that are tested against: where each is found, how it is configured and when it answers.

Each is as it comes from Debian, with its files in the test's folder and without what only costs time there (fsync).
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from server import Server

if TYPE_CHECKING:
    import pymysql

HERE = Path(__file__).parent


class PostgreSQL(Server):
    program = "postgres"
    need = "postgresql"
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


class MariaDB(Server):
    program = "mariadbd"
    need = "mariadb"
    user = "mysql"

    account = "zpipe"
    password = "the right one"

    def make(self) -> None:
        words = ["--no-defaults", f"--datadir={self.folder}/data", "--auth-root-authentication-method=normal"]
        self.call("/usr/bin/mariadb-install-db", *words, "--skip-test-db")
        script = self.folder / "init.sql"
        script.write_text(
            f"CREATE USER IF NOT EXISTS '{self.account}'@'127.0.0.1' IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO '{self.account}'@'127.0.0.1';\nCREATE DATABASE IF NOT EXISTS zpipe;\n"
        )
        script.chmod(0o644)

    def command(self) -> list[str]:
        settings = {
            "datadir": self.folder / "data",
            "port": self.port,
            "bind-address": "127.0.0.1",
            "socket": self.folder / "socket",
            "pid-file": self.folder / "pid",
            "init-file": self.folder / "init.sql",
            "skip-name-resolve": "ON",
            "innodb-flush-log-at-trx-commit": 2,  # survives the end of the process
            "innodb-buffer-pool-size": "64M",
            "max-connections": 20,
        }
        return [str(self.found()), "--no-defaults", *(f"--{key}={value}" for key, value in settings.items())]

    def connect(self) -> pymysql.Connection[Any]:
        import pymysql

        login = {"user": self.account, "password": self.password, "database": "zpipe"}
        return pymysql.connect(host="127.0.0.1", port=self.port, connect_timeout=5, autocommit=True, **login)

    def check(self) -> None:
        self.connect().close()


class _Script(Server):
    """A program of Python beside the tests. Its interpreter is there."""

    program = sys.executable


class S3(Server):
    """moto's server, which keeps all in memory. Its clients come through `gate`, which a test may kill."""

    program = f"{sys.prefix}/bin/moto_server"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate = Gate(folder, self.port)

    def command(self) -> list[str]:
        return [str(self.found()), "-H", "127.0.0.1", "-p", str(self.port)]

    def start(self) -> None:
        super().start()
        self.gate.start()

    def stop(self) -> None:
        self.gate.stop()
        super().stop()


class Gate(_Script):
    def __init__(self, folder: Path, target: int) -> None:
        super().__init__(folder)
        self._target = target

    def command(self) -> list[str]:
        return [sys.executable, str(HERE / "gate.py"), str(self.port), str(self._target)]


class BulkService(_Script):
    """It stands for Elasticsearch."""

    @property
    def file(self) -> Path:
        return self.folder / "documents.db"

    def command(self) -> list[str]:
        return [sys.executable, str(HERE / "bulk_service.py"), str(self.port), str(self.file)]


def closed_port(server: Server) -> int:
    """A port next to the server's at which nobody listens: `free_ports` keeps it free."""
    return server.port + 1
