"""How a NATS cluster is reached: its servers, who asks, and how that is proved. Must not live here: the connection."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zpipe.config.pipeline_config import NatsSecurity
from zpipe.errors import install_command

PORT = 4222
_JWT, _SEED = "BEGIN NATS USER JWT", "BEGIN USER NKEY SEED"
"""Lines of a file of credentials: the line after each has the JWT, and the seed."""


class AccessError(Exception):
    """A cluster cannot be used as [security.nats] says. `cure`: what to do about it."""

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(f"{reason}; {cure}" if cure else reason)
        self.reason = reason
        self.cure = cure


@dataclass(frozen=True)
class Access:
    """The servers of a cluster, and how who asks is proved, as the config says."""

    servers: tuple[str, ...]
    security: NatsSecurity = field(repr=False)

    def connect_arguments(self) -> dict[str, Any]:
        """Arguments for the client's `connect`, without servers. Files are read each time, so the next connection takes new ones.
        Raises AccessError for a file that is missing, or not what it should be."""
        security, arguments = self.security, dict[str, Any]()
        if security.username:
            arguments |= {"user": security.username, "password": security.password}
        if security.token:
            arguments["token"] = security.token
        if security.credentials is not None:
            from nats.aio.client import RawCredentials

            arguments["user_credentials"] = RawCredentials(_credentials(security.credentials))
        if security.nkey is not None:
            arguments["nkeys_seed_str"] = _seed(security.nkey)
        if (context := self._tls()) is not None:
            arguments["tls"] = context
        return arguments

    def _tls(self) -> ssl.SSLContext | None:
        encrypted = any(server.startswith("tls://") for server in self.servers)
        if not encrypted and self.security.ca is None and self.security.cert is None:
            return None
        ca, cert, key = self.security.ca, self.security.cert, self.security.key
        try:
            context = ssl.create_default_context(cadata=_text("ca", ca) if ca is not None else None)
        except ssl.SSLError:
            cure = "give the certificate of whoever signed those of the servers, in PEM"
            raise _unfit("ca", ca, "has no certificate", cure) from None
        if cert is not None:
            for name, path in (("cert", cert), ("key", key)):
                if path is not None:
                    _text(name, path)
            try:
                context.load_cert_chain(str(cert), str(key) if key is not None else None)
            except ssl.SSLError:
                what = f"and its `key` {key} are no pair" if key is not None else "has no certificate with its key"
                raise _unfit("cert", cert, what, "give a certificate and the key of it, in PEM") from None
        return context

    @property
    def means(self) -> str:
        """By what it is proved who asks, in words; "" if by nothing."""
        security, found = self.security, []
        found += ["`username` and `password`"] if security.username else []
        found += ["`token`"] if security.token else []
        found += [f"`credentials` {security.credentials}"] if security.credentials is not None else []
        found += [f"`nkey` {security.nkey}"] if security.nkey is not None else []
        found += [f"`cert` {security.cert}"] if security.cert is not None else []
        return " and ".join(found)

    def expired_at(self) -> float | None:
        """When the credentials end, in seconds since the epoch; None if never, or if there are none."""
        if self.security.credentials is None:
            return None
        try:
            payload = _line_after(_JWT, _credentials(self.security.credentials)).split(".")[1]
            return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
        except (AccessError, ValueError, LookupError, TypeError):
            return None


def is_encrypted(server: str) -> bool:
    """Whether nothing may be sent to the server in the clear."""
    return server.startswith("tls://")


def shown(server: str) -> str:
    """HOST:PORT of a server, for people."""
    url = urlsplit(server)
    return f"{url.hostname}:{url.port or PORT}"


def _credentials(path: Path) -> str:
    text = _text("credentials", path)
    _require_nkeys("credentials")
    if not all(_line_after(line, text) for line in (_JWT, _SEED)):
        raise _unfit("credentials", path, "has no JWT and seed of a user", "give a .creds file, as nsc makes it")
    return text


def _line_after(mark: str, text: str) -> str:
    lines: Iterator[str] = iter(text.splitlines())
    return next((next(lines, "").strip() for line in lines if mark in line), "")


def _seed(path: Path) -> str:
    text = _text("nkey", path)
    _require_nkeys("nkey")
    seed = next((line for line in map(str.strip, text.splitlines()) if line.startswith("SU")), "")
    try:
        import nkeys

        nkeys.from_seed(bytearray(seed.encode()))
    except Exception:  # nkeys raises whatever base64 and nacl do
        raise _unfit("nkey", path, "has no seed of a user (SU…)", "give the file that `nk -gen user` makes") from None
    return seed


def _require_nkeys(key: str) -> None:
    if find_spec("nkeys") is None:
        raise AccessError(f"`{key}` of [security.nats] needs nkeys", install_command("nats"))


def _text(key: str, path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise _unfit(key, path, f"cannot be read: {error.strerror}", "correct the path, or who may read it") from None


def _unfit(key: str, path: Path | None, what: str, cure: str) -> AccessError:
    return AccessError(f"`{key}` of [security.nats]: {path} {what}", cure)
