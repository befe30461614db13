"""The files of keys on this machine: private keys, and the list of those that are trusted. Does not belong here: making a key,
and which pipeline trusts whom."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from zpipe import folders
from zpipe.config import trusted_keys
from zpipe.errors import OperatorError
from zpipe.runtime.this_host import NEXT, SUFFIX

Trusted = dict[str, tuple[str, ...]]
LOCK_S = 30.0
"""Another command holds the folder for milliseconds, unless it was stopped."""


class KeyFiles:
    """The files of keys in one folder. Raises OperatorError for what cannot be read or written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, host: str, new: bool = False) -> Path:
        """The file of a host's private key; with `new`, of the key that is to follow it."""
        return self.folder / (host + SUFFIX + (NEXT if new else ""))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder, and holds it while it is changed: of two commands that add a key at once, the second would write
        over what the first has added. Blocks while another holds it."""
        try:
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError as error:
            raise folders.denied(self.folder, error, "write") from None
        except OSError as error:
            raise folders.unwritable(self.folder, error) from None
        try:
            deadline = time.monotonic() + LOCK_S
            while not _lock(descriptor):
                if time.monotonic() > deadline:
                    raise OperatorError(f"another `zpipe keys` is at work in {self.folder}: try again, or end it")
                time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)

    def write_private(self, path: Path, secret: str) -> None:
        """Writes a file that only its owner can read. To be called with the folder `locked`, like all that writes."""
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


def _lock(folder: int) -> bool:
    """Takes the lock of a folder that is open; False if somebody else has it. No file is left behind by it."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
