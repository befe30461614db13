"""The files of keys on this machine: private keys, and the list of those that are trusted. Does not belong here: making a key,
and which pipeline trusts whom."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from zpipe import folders
from zpipe.config import trusted_keys
from zpipe.errors import OperatorError
from zpipe.runtime.this_host import NEXT, SUFFIX

Trusted = dict[str, tuple[str, ...]]


class KeyFiles:
    """Those of one folder. Raises OperatorError for what cannot be read or written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, host: str, new: bool = False) -> Path:
        """Of a host's private key; with `new`, of the one that is to follow it."""
        return self.folder / (host + SUFFIX + (NEXT if new else ""))

    def write_private(self, path: Path, secret: str) -> None:
        """Writes a file that only its owner can read."""
        self._write(path, secret + "\n", 0o600)

    def put_new_to_use(self, host: str) -> None:
        """The new private key takes the place of the old one, which is gone then."""
        try:
            self.path(host, new=True).replace(self.path(host))
        except OSError as error:
            raise folders.unwritable(self.path(host), error) from None

    def trusted(self) -> Trusted:
        try:
            return trusted_keys.read(self.folder)
        except ValueError as error:
            raise OperatorError(str(error)) from None

    def write_trusted(self, keys: Mapping[str, tuple[str, ...]]) -> None:
        self._write(self.folder / trusted_keys.FILE, trusted_keys.text(keys), 0o644)

    def _write(self, path: Path, text: str, mode: int) -> None:
        """Writes the whole file or nothing, with these rights whatever the umask is."""
        part = path.with_name(path.name + ".part")
        try:
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(descriptor, mode)
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            part.replace(path)
        except PermissionError as error:
            raise folders.denied(path, error, "write") from None
        except OSError as error:
            raise folders.unwritable(path, error) from None
