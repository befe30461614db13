"""Which host of a pipeline this machine is, and its private key there. Does not belong here: making keys, and who is trusted."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from zpipe import folders
from zpipe.config import PipelineConfig
from zpipe.config.hosts import is_key
from zpipe.errors import OperatorError, TargetError
from zpipe.plugin_loading import did_you_mean
from zpipe.runtime import environment

SUFFIX = ".key"
NEXT = ".next"
"""The end of the name of a new key that `zpipe keys rotate` has made, until it is put to use."""
_KEY_FILE = re.compile(r"([A-Za-z0-9_-]+)\.key")


def name_of(config: PipelineConfig, env: Mapping[str, str]) -> str:
    """$ZPIPE_HOST; or else the only host of the pipeline whose private key is here; or else the host with this machine's name, or
    with an address of it. "" if there is none. Raises TargetError if $ZPIPE_HOST is no host of the pipeline."""
    if not config.hosts:
        return ""
    if named := env.get(environment.HOST):
        if named not in config.hosts:
            known = ", ".join(config.hosts)
            what = f"{named!r} is no host of pipeline {config.name!r}, which has {known}{did_you_mean(named, config.hosts)}"
            raise TargetError(f"{what}: say by $ZPIPE_HOST which of them this machine is")
        return named
    with_key = [name for name in private_keys(folders.keys_folder(env, config.path)) if name in config.hosts]
    if len(with_key) == 1:
        return with_key[0]
    own = socket.gethostname()
    named_so = [name for name in config.hosts if name in (own, own.partition(".")[0])]
    return next(iter(named_so), "") or next(
        (name for name, host in config.hosts.items() if host.address and is_own(host.address)), ""
    )


def private_keys(folder: Path) -> list[str]:
    """The hosts whose private keys are in the folder, readable or not."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [found[1] for name in names if (found := _KEY_FILE.fullmatch(name))]


def credential_path(env: Mapping[str, str], host: str) -> Path | None:
    """The file that systemd has given this unit for the private key of the host, if it has."""
    folder = env.get("CREDENTIALS_DIRECTORY")
    path = Path(folder) / (host + SUFFIX) if folder else None
    return path if path is not None and path.exists() else None


def read_key(path: Path, host: str, of_systemd: bool = False) -> str:
    """The private key in a file. Raises OperatorError: it is missing, readable by others, or no key."""
    try:
        found = path.stat()
        text = path.read_text("ascii", "replace").strip() if stat.S_ISREG(found.st_mode) else ""
    except FileNotFoundError:
        cure = f"`zpipe keys new {host}` makes one, if this is host {host!r}; if it is not, say which by $ZPIPE_HOST"
        raise OperatorError(f"there is no private key of host {host!r} here ({path}): {cure}") from None
    except OSError as error:
        raise folders.denied(path, error, "read the private key") from None
    if found.st_mode & 0o077 and not of_systemd:  # systemd gives access by an ACL, which shows as the group's
        mode = stat.S_IMODE(found.st_mode)
        raise OperatorError(f"{path} is a private key that others may read (mode {mode:04o}): chmod 600 {path}")
    if not is_key(text):
        raise OperatorError(f"{path} holds no private key: it must be one line of 40 characters")
    return text


def own_key(config: PipelineConfig, env: Mapping[str, str], host: str) -> str:
    """The private key of this host; "" if the pipeline has no keys. Raises OperatorError."""
    if not config.has_keys:
        return ""
    if not host:
        known = ", ".join(config.hosts)
        raise OperatorError(
            f"this machine is none of the hosts of pipeline {config.name!r} ({known}), as far as can be seen: say which by "
            "$ZPIPE_HOST, or give it a key and a [hosts.NAME] of its own"
        )
    return read_key(key_path(config, env, host), host, of_systemd=credential_path(env, host) is not None)


def key_path(config: PipelineConfig, env: Mapping[str, str], host: str) -> Path:
    """Where the private key of this host is: a credential of this unit, or the folder of keys."""
    return credential_path(env, host) or folders.keys_folder(env, config.path) / (host + SUFFIX)


def is_own(address: str) -> bool:
    """Whether a socket can be bound to it here."""
    return any(_can_bind(family, where) for family, where in _resolved(address))


def _resolved(address: str) -> Iterator[tuple[int, str]]:
    try:
        found = socket.getaddrinfo(address.strip("[]"), None, type=socket.SOCK_STREAM)
    except OSError:
        return
    yield from ((int(family), str(where[0])) for family, _, _, _, where in found)


def _can_bind(family: int, where: str) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as plug:
        try:
            plug.bind((where, 0))
        except OSError:
            return False
    return True
