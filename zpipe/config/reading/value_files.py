"""Reads the file that a ${file:PATH} or a ${credential:NAME} in a config stands for. Raises ValueError with a sentence that says
what to do, and never what is in the file. Does not belong here: the substitution."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from zpipe.plugin_loading import did_you_mean

MOST_BYTES = 1 << 20
"""systemd allows the credentials of a unit no more than this."""
_CREDENTIAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")


def is_credential_name(name: str) -> bool:
    """Whether systemd takes it, and a unit file needs no quotes for it."""
    return _CREDENTIAL.fullmatch(name) is not None


def read_file(path: str, folder: Path) -> str:
    """The text of the file, relative to `folder`, without the end of its last line."""
    return _read(folder / path)


def read_credential(name: str, env: Mapping[str, str]) -> str:
    if not is_credential_name(name):
        raise ValueError(f"{name!r} is no name of a credential: allowed are letters, digits, '_', '-' and '.'")
    if not env.get("CREDENTIALS_DIRECTORY"):
        raise ValueError(
            f"the credential {name} is given to a unit of systemd, and this is none: $CREDENTIALS_DIRECTORY is not set; "
            f"by hand, set it to a folder with a file {name}, such as /etc/credstore"
        )
    folder = Path(env["CREDENTIALS_DIRECTORY"])
    if not os.path.exists(folder / name):
        near = did_you_mean(name, (file.name for file in folder.glob("*")))
        raise ValueError(
            f"there is no credential {name} in {folder}{near}; a unit has it by LoadCredential={name}, which `zpipe units` writes"
        )
    return _read(folder / name)


def _read(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a FIFO would wait for somebody who writes
            raise ValueError(f"{path} is not a file")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        near = did_you_mean(path.name, (file.name for file in path.parent.glob("*")))
        hint = near if isinstance(error, FileNotFoundError) else ""
        raise ValueError(f"{path} cannot be read: {error.strerror}{hint}") from None
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path} is too long for a value: {MOST_BYTES >> 20} MiB are allowed")
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8") from None
