"""How a NATS cluster is reached: its servers, who asks, and how that is proved. Must not live here: the connection."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any

from zpipe.config.pipeline_config import NatsSecurity


@dataclass(frozen=True)
class Access:
    """As the config says it."""

    servers: tuple[str, ...]
    security: NatsSecurity = field(repr=False)

    def connect_arguments(self) -> dict[str, Any]:
        """For the client's `connect`. Raises OSError where a file cannot be read."""
        arguments: dict[str, Any] = {"servers": list(self.servers)}
        security = self.security
        if security.username:
            arguments |= {"user": security.username, "password": security.password}
        if security.token:
            arguments["token"] = security.token
        if security.credentials is not None:
            arguments["user_credentials"] = str(security.credentials)
        if (context := self._tls()) is not None:
            arguments["tls"] = context
        return arguments

    def _tls(self) -> ssl.SSLContext | None:
        ca, cert, key = self.security.ca, self.security.cert, self.security.key
        encrypted = any(server.startswith("tls://") for server in self.servers)
        if not encrypted and ca is None and cert is None:
            return None
        context = ssl.create_default_context(cafile=str(ca) if ca is not None else None)
        if cert is not None:
            context.load_cert_chain(str(cert), str(key) if key is not None else None)
        return context
