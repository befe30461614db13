"""Locks on files: who holds an instance or a run, for as long as its process lives, and what its holder wrote into the file. Must
not live here: what that means.

A lock is a POSIX record lock (fcntl(2), F_SETLK). The kernel ties it to the process that took it: a child that a plugin forks
does not have it, so it is free the moment its process is killed. An `flock` belongs to the open file, which every forked child
shares: a helper that outlives its daemon would keep the instance locked. The price is that a record lock is lost when its
process closes any descriptor of the file, so this module opens no file whose lock the process itself holds; where a plugin in
the same process does, an instance takes its lock again (`InstanceLock.keep`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import struct
import time
from pathlib import Path

from zpipe import folders
from zpipe.errors import OperatorError

LOCK_S = 0.5
READY, CANNOT_GO_ON = "ready", "cannot_go_on"
"""What an instance notes in its lock file for the supervisor: its plugin is open, or to start it again is of no use."""

_FLOCK = struct.Struct("hhqqi0q")  # struct flock of fcntl(2): type, whence, start, length, pid
_held: dict[tuple[int, int], int] = {}
"""The descriptors of the locks that this process holds, by device and inode of their files."""


def _own(path: Path) -> int | None:
    """The descriptor, if this process holds the lock."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return _held.get((stat.st_dev, stat.st_ino))


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock. Looking takes no lock, so it hinders nobody."""
    return holder(path) is not None


def holder(path: Path) -> int | None:
    """The pid of the process that holds the lock; 0 if it cannot be named, None if nobody does."""
    if _own(path) is not None:
        return os.getpid()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:  # no process is taken for dead because this one has no descriptors left to look
        return 0 if error.errno in (errno.EMFILE, errno.ENFILE) else None
    try:
        return _locker(fd)
    finally:
        os.close(fd)


def _locker(fd: int) -> int | None:
    """As `holder`, for an open file; a lock of this process itself is not seen."""
    asked = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else max(pid, 0)


def read(path: Path) -> str:
    """What stands in a lock file. Raises OSError."""
    own = _own(path)
    return path.read_text() if own is None else os.pread(own, os.fstat(own).st_size, 0).decode()


def take(path: Path) -> int | None:
    """The descriptor to give to `release`; None if somebody holds the lock. The file is made if it is missing.

    Tries for LOCK_S: the last moments of a killed process may be in the way. Raises OperatorError.
    """
    if _own(path) is not None:
        return None
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise folders.unwritable(path, error) from None
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows either for a lock that somebody holds
            if time.monotonic() > deadline:
                os.close(fd)
                return None
            time.sleep(0.02)
        else:
            stat = os.fstat(fd)
            _held[stat.st_dev, stat.st_ino] = fd
            return fd


def release(fd: int) -> None:
    """Gives a lock back."""
    stat = os.fstat(fd)
    _held.pop((stat.st_dev, stat.st_ino), None)
    os.close(fd)


def _write(path: Path, fd: int, text: str) -> None:
    try:
        os.ftruncate(fd, 0)
        os.write(fd, text.encode())
    except OSError as error:
        raise folders.unwritable(path, error) from None


class InstanceLock:
    """Held while an instance lives: a second bind of an ipc address would steal it silently."""

    def __init__(self, folder: Path, name: str) -> None:
        """Makes the folder. Raises OperatorError if the instance runs already."""
        folders.make_private(folder)
        path = folder / "lock"
        fd = take(path)
        if fd is None:
            raise OperatorError(f"{name} is running already (pid {holder(path) or 'unknown'}, {folder})")
        self._fd = fd
        self._path = path
        self._name = name
        _write(path, self._fd, f"{os.getpid()}\n")
        for stale in folder.glob("inbox-*.sock"):
            stale.unlink(missing_ok=True)

    def keep(self) -> None:
        """Takes the lock again, which does nothing if it is still held. To be called now and then: whatever of this process opens
        the file and closes it has lost the lock. Raises OperatorError if another process has it by now."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise OperatorError(
                f"{self._name} has lost its lock to pid {_locker(self._fd) or 'unknown'}, the same instance by now. "
                f"Something in this process has opened {self._path} and closed it"
            ) from None

    def note_state(self, word: str) -> None:
        """Notes READY: a death from here on is no failed start. (The supervisor cannot rely on snapshots for that, which it may
        miss.) Or CANNOT_GO_ON: somebody has to put something right before the instance is started again."""
        with contextlib.suppress(OSError):  # a full disk: the supervisor may start it once too often
            os.write(self._fd, f"{word}\n".encode())

    def release(self) -> None:
        release(self._fd)


class RunLock:
    """One run of a pipeline at a time. Names the run, so that `zpipe stage` in another terminal can join it."""

    def __init__(self, root: Path, pipeline: str) -> None:
        """Makes the root. Raises OperatorError if the pipeline runs already."""
        folders.make_private(root)
        self.run = os.urandom(6).hex()
        path = root / f"{pipeline}.run"
        fd = take(path)
        if fd is None:
            raise OperatorError(f"pipeline {pipeline!r} is running already: `zpipe monitor` shows it")
        self._fd = fd
        _write(path, self._fd, json.dumps({"run": self.run, "pid": os.getpid()}))

    def release(self) -> None:
        release(self._fd)
