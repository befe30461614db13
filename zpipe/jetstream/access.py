"""How a NATS cluster is reached: its servers, who asks, and how that is proved. Must not live here: the connection."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Access:
    """As the config says it. A value that is a secret is in no `repr`."""

    servers: tuple[str, ...]
    username: str = ""
    password: str = ""
    token: str = ""
    credentials: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __repr__(self) -> str:
        return f"Access({', '.join(self.servers)})"

    def connect_arguments(self) -> dict[str, Any]:
        """For the client's `connect`. Raises OSError where a file cannot be read."""
        arguments: dict[str, Any] = {"servers": list(self.servers)}
        if self.username:
            arguments |= {"user": self.username, "password": self.password}
        if self.token:
            arguments["token"] = self.token
        if self.credentials is not None:
            arguments["user_credentials"] = str(self.credentials)
        if (context := self._tls()) is not None:
            arguments["tls"] = context
        return arguments

    def _tls(self) -> ssl.SSLContext | None:
        encrypted = any(server.startswith("tls://") for server in self.servers)
        if not encrypted and self.ca is None and self.cert is None:
            return None
        context = ssl.create_default_context(cafile=str(self.ca) if self.ca is not None else None)
        if self.cert is not None:
            context.load_cert_chain(str(self.cert), str(self.key) if self.key is not None else None)
        return context
