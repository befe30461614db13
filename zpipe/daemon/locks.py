"""Locks on files: who holds an instance or a run, for as long as its process lives.

May live here: taking a lock, and looking whether one is held. What a lock file says besides is its holder's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import time
from pathlib import Path

from zpipe import folders
from zpipe.errors import OperatorError

LOCK_S = 0.5


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock. The shared lock taken to find out is given back at once."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)  # nobody is taken for dead because this process cannot look
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def take(path: Path) -> tuple[int, bool]:
    """(descriptor, whether the lock was taken). The file is made if it is missing.

    Tries for LOCK_S: a look by `is_locked`, or the last moments of a killed process, may be in the way. Raises OperatorError.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from None
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return fd, False
            time.sleep(0.02)
        else:
            return fd, True


def _write(path: Path, fd: int, text: str) -> None:
    try:
        os.ftruncate(fd, 0)
        os.write(fd, text.encode())
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> OperatorError:
    return OperatorError(
        f"cannot write {path}: {error.strerror}; is its folder writable, and is there room on its disk?"
    )


class InstanceLock:
    """Held while an instance lives: a second bind of an ipc address would steal it silently."""

    def __init__(self, folder: Path, name: str) -> None:
        """Makes the folder. Raises OperatorError if the instance runs already."""
        folders.make_private(folder)
        self._fd, taken = take(folder / "lock")
        if not taken:
            pid = (os.read(self._fd, 20).decode(errors="replace").split() or ["unknown"])[0]
            os.close(self._fd)
            raise OperatorError(f"{name} is running already (pid {pid}, {folder})")
        _write(folder / "lock", self._fd, f"{os.getpid()}\n")
        for stale in folder.glob("inbox-*.sock"):
            stale.unlink(missing_ok=True)

    def leave_word(self, word: str) -> None:
        """Leaves word for the supervisor. `ready`: a death from here on is no failed start (a snapshot may miss it);
        `hopeless`: starting again is of no use before somebody has put something right."""
        with contextlib.suppress(OSError):  # a full disk: it is started once more than it need be
            os.write(self._fd, f"{word}\n".encode())

    def release(self) -> None:
        os.close(self._fd)


class RunLock:
    """One run of a pipeline at a time. Names the run, so that `zpipe stage` in another terminal can join it."""

    def __init__(self, root: Path, pipeline: str) -> None:
        """Makes the root. Raises OperatorError if the pipeline runs already."""
        folders.make_private(root)
        self.run = secrets.token_hex(6)
        self._fd, taken = take(root / f"{pipeline}.run")
        if not taken:
            os.close(self._fd)
            raise OperatorError(f"pipeline {pipeline!r} is running already: `zpipe monitor` shows it")
        _write(root / f"{pipeline}.run", self._fd, json.dumps({"run": self.run, "pid": os.getpid()}))

    def release(self) -> None:
        os.close(self._fd)
