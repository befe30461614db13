"""A disk in memory for tests of the disk buffer. It keeps what was synced, and of the rest what chance leaves when the power
goes; it may be full, read-only or failing.

After a failed fdatasync the pages are clean as far as the kernel is concerned, though they are not on the disk: the next one
succeeds and writes none of them.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zpipe.core.wire.cbor import Encoded
from zpipe.runtime.segment_folder import PAGE_BYTES, Disk

SECTOR = 512


class Inode:
    """`data` is what a process reads, `kept` what is on the disk, `dirty` the writes between the two, and truncations (None)."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.kept = bytearray()
        self.dirty: list[tuple[int, bytes | None]] = []

    def write(self, offset: int, content: bytes) -> None:
        put(self.data, offset, content)
        self.dirty.append((offset, content))

    def truncate(self, size: int) -> None:
        cut(self.data, size)
        self.dirty.append((size, None))

    def flush(self) -> None:
        for offset, content in self.dirty:
            apply(self.kept, offset, content)
        self.dirty.clear()

    def lose_power(self, chance: random.Random) -> None:
        """Writes reach the disk in any order, and by sectors."""
        for offset, content in self.dirty:
            if chance.random() < 0.5:
                continue
            if content is not None and chance.random() < 0.5:
                content = content[: chance.randrange(len(content) + 1)]
            apply(self.kept, offset, content)
        self.dirty.clear()
        self.data = bytearray(self.kept)


def put(data: bytearray, offset: int, content: bytes) -> None:
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(content)] = content


def cut(data: bytearray, size: int) -> None:
    if len(data) > size:
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))


def apply(data: bytearray, offset: int, content: bytes | None) -> None:
    if content is None:
        cut(data, offset)
    else:
        put(data, offset, content)


class FakeDisk(Disk):
    """One folder, and the folder `bad` in it.

    capacity   bytes of all files;  total  what it says that it has
    failing    by the name of a call: the errno that it raises from now on
    bad_pages  (file, number of the page) that cannot be read
    """

    def __init__(self, capacity: int = 1 << 40) -> None:
        self.capacity = capacity
        self.total = 0
        self.failing: dict[str, int] = {}
        self.bad_pages: set[tuple[Path, int]] = set()
        self.files: dict[Path, Inode] = {}
        self.kept: dict[Path, Inode] = {}
        self.syncs = 0
        self._changes: list[tuple[Path, Inode | None]] = []
        self._open: dict[int, Inode] = {}
        self._paths: dict[int, Path] = {}
        self._next_fd = 100

    def _check(self, call: str, changes: bool = True) -> None:
        if call in self.failing:
            raise OSError(self.failing[call], os.strerror(self.failing[call]))
        if changes and "all" in self.failing:
            raise OSError(self.failing["all"], os.strerror(self.failing["all"]))

    @property
    def used(self) -> int:
        return sum(len(inode.data) for inode in self.files.values())

    def make_folder(self, folder: Path) -> None:
        self._check("make_folder")

    def names(self, folder: Path) -> list[str]:
        self._check("names", changes=False)
        return [path.name for path in self.files if path.parent == folder]

    def open(self, path: Path, flags: int) -> int:
        self._check("open", changes=False)
        inode = self.files.get(path)
        if inode is not None and flags & os.O_EXCL:
            raise OSError(errno.EEXIST, "File exists")
        if flags & (os.O_RDWR | os.O_WRONLY):
            self._check("open_to_write")
        if inode is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory")
            if self.used >= self.capacity:
                raise OSError(errno.ENOSPC, "No space left on device")
            inode = self.files[path] = Inode()
            self._changes.append((path, inode))
        elif flags & os.O_TRUNC:
            inode.truncate(0)
        self._next_fd += 1
        self._open[self._next_fd] = inode
        self._paths[self._next_fd] = path
        return self._next_fd

    def close(self, fd: int) -> None:
        del self._open[fd]

    def size(self, fd: int) -> int:
        return len(self._open[fd].data)

    def modified_at(self, path: Path) -> float:
        return 0.0

    def size_of(self, path: Path) -> int:
        return len(self.files[path].data)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self._check("read", changes=False)
        pages = range(
            offset // PAGE_BYTES, (min(offset + size, len(self._open[fd].data)) + PAGE_BYTES - 1) // PAGE_BYTES
        )
        if any((self._paths[fd], page) in self.bad_pages for page in pages):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return bytes(self._open[fd].data[offset : offset + size])

    def write(self, fd: int, pieces: Sequence[Encoded], offset: int) -> int:
        self._check("write")
        content = b"".join(pieces)
        room = self.capacity - self.used
        inode = self._open[fd]
        fits = min(len(content), room + max(len(inode.data) - offset, 0))
        if fits <= 0 < len(content):
            raise OSError(errno.ENOSPC, "No space left on device")
        inode.write(offset, content[:fits])
        return fits

    def truncate(self, fd: int, size: int) -> None:
        self._check("truncate")
        self._open[fd].truncate(size)

    def sync(self, fd: int) -> None:
        self.syncs += 1
        inode = self._open[fd]
        if "sync" in self.failing:
            for change in inode.dirty[1::2]:
                apply(inode.kept, *change)
            inode.dirty.clear()
        self._check("sync")
        inode.flush()

    def sync_folder(self, folder: Path) -> None:
        self._check("sync_folder")
        for path, inode in self._changes:
            change(self.kept, path, inode)
        self._changes.clear()

    def remove(self, path: Path) -> None:
        self._check("remove")
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        del self.files[path]
        self._changes.append((path, None))

    def rename(self, path: Path, other: Path) -> None:
        self._check("rename")
        inode = self.files[other] = self.files.pop(path)
        self._changes += [(other, inode), (path, None)]

    def space(self, folder: Path) -> tuple[int, int]:
        return self.capacity - self.used, self.total

    # ---- what happens to it

    def lose_power(self, chance: random.Random) -> None:
        for path, inode in self._changes:
            if chance.random() < 0.5:
                change(self.kept, path, inode)
        self._changes.clear()
        self.files = dict(self.kept)
        for inode in self.files.values():
            inode.lose_power(chance)
        self._open.clear()

    def end_process(self) -> None:
        """What a killed process has written stays in the page cache."""
        self._open.clear()


def change(names: dict[Path, Inode], path: Path, inode: Inode | None) -> Any:
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode
