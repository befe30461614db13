"""A nats-server that asks who somebody is, in each way it knows, and what is shown to it. Not here: what is tested with it."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys
from broker_servers import Nats
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAY = datetime.timedelta(days=1)


class GuardedNats(Nats):
    """`demands`: lines of its configuration. `url` is with tls:// where it has that."""

    demands = ""

    @property
    def url(self) -> str:
        return f"{'tls' if 'tls {' in self.demands else 'nats'}://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        text = f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{self.folder}/js" }}\n{self.demands}\n'
        (self.folder / "conf").write_text(text)
        return [str(self.found()), "-c", str(self.folder / "conf")]

    def check(self) -> None:
        """Somebody listens, and JetStream was started before that."""
        super(Nats, self).check()


# ---- certificates


class Authority:
    """Signs certificates of those who are to be trusted. Its own is `path`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(_pem(self._sign(self._name, self._key, DAY, [], signs=True)))

    def issue(self, name: str, *hosts: str, ends_in: datetime.timedelta = DAY) -> tuple[Path, Path]:
        """Paths of a certificate for these hosts (names or addresses), and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        cert_path, key_path = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert_path.write_bytes(_pem(self._sign(subject, key, ends_in, [_host(host) for host in hosts])))
        encryption = serialization.NoEncryption()
        key_path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return cert_path, key_path

    def _sign(
        self, subject: x509.Name, key: Any, ends_in: datetime.timedelta, hosts: list[Any], signs: bool = False
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * DAY)
            .not_valid_after(now + ends_in)
            .add_extension(x509.BasicConstraints(ca=signs, path_length=None), critical=True)
        )
        if hosts:
            made = made.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        return made.sign(self._key, hashes.SHA256())


def _host(text: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


# ---- nkeys, and what is signed with them


class Key:
    """A pair of keys. `kind`: one of nkeys.PREFIX_BYTE_…"""

    def __init__(self, kind: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), kind).decode()
        self._pair = nkeys.from_seed(bytearray(self.seed.encode()))
        self.public = self._pair.public_key.decode()

    def claim(self, subject: str, nats: dict[str, Any], ends_at: float | None = None) -> str:
        """A JWT as nats-server reads it: what the holder of this key says of another one."""
        claims: dict[str, Any] = {"iat": int(time.time()), "iss": self.public, "sub": subject, "name": "test"}
        claims |= {"nats": {"version": 2, **nats}, **({"exp": int(ends_at)} if ends_at is not None else {})}
        claims["jti"] = base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).rstrip(b"=").decode()
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = f"{_base64(json.dumps(head).encode())}.{_base64(json.dumps(claims).encode())}"
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


def _base64(some: bytes) -> str:
    return base64.urlsafe_b64encode(some).rstrip(b"=").decode()


class Operator:
    """Whom a server trusts in operator mode, with one account that has JetStream. `demands` are for the server."""

    def __init__(self) -> None:
        own, self._account = Key(nkeys.PREFIX_BYTE_OPERATOR), Key(nkeys.PREFIX_BYTE_ACCOUNT)
        system = Key(nkeys.PREFIX_BYTE_ACCOUNT)
        every = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
        storage = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
        of_account = {"type": "account", "limits": {**every, "wildcards": True, **storage}}
        of_system = {"type": "account", "limits": {**every, "wildcards": True}}
        known = {
            self._account.public: own.claim(self._account.public, of_account),
            system.public: own.claim(system.public, of_system),
        }
        self.demands = "\n".join(
            [
                f"operator: {own.claim(own.public, {'type': 'operator'})}",
                f"system_account: {system.public}",
                "resolver: MEMORY",
                f"resolver_preload: {{ {', '.join(f'{key}: {jwt}' for key, jwt in known.items())} }}",
            ]
        )

    def credentials(self, ends_in_s: float | None = None, **rights: Any) -> str:
        """The text of a .creds file of a new user."""
        user = Key(nkeys.PREFIX_BYTE_USER)
        nats = {"type": "user", **dict.fromkeys(("subs", "data", "payload"), -1), **rights}
        ends_at = time.time() + ends_in_s if ends_in_s is not None else None
        jwt = self._account.claim(user.public, nats, ends_at)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
