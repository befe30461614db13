"""`tail`: a source that follows a log file, through rotation and truncation, and goes on where it was after a restart.

It reads what is there, and then what is added, without end. `lines` gives `{"path", "text"}`, `ndjson` the value of each
line. Text is UTF-8, and what is not becomes U+FFFD. When the file is renamed and another takes its name, the old one is
read to its end first, until nothing has been added for `settle`. Files that were rotated while nobody read are found by
`rotated` and read in the order of their last change; what was compressed is not read.

| fault | what follows |
|---|---|
| the file is not there, or may not be read | the source waits for it, and says so once |
| it is truncated (`copytruncate`) | the rest is read from its copy, if `rotated` finds one; then the file from its start |
| the file of the position is gone | a warning, and the oldest file that is there, whole |
| a line that is not JSON, or longer than `max_line` | a dead letter of this stage; the next line follows |

**Resume.** A position is `[inode, mark, offset]`: the file, a checksum of its first line, and the end of the line. The
mark tells a file from another that has its inode, and knows it again in its copy. So ids are the same at every start, and
no two lines have the same one.
"""

from __future__ import annotations

import glob
import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from zpipe import Context, Duration, Size, Source, override
from zpipe.messages import BadRecord
from zpipe_plugins.filesystem.readers import json_value

_MARKED = 1024
"""Bytes of the first line that count. More would have to be read again at each look."""
_RAW_KEPT = 64 * 1024
_DIGITS = 4
"""Of the number of a rotated file. A longer one is a date, and the older file has the lower one."""
_COMPRESSED = (".gz", ".xz", ".bz2", ".zst", ".lz4")

Position = list[int]


@dataclass
class Options:
    path: Annotated[str, "the file, relative to the config file"]
    format: Annotated[Literal["lines", "ndjson"], "what a message is"] = "lines"
    rotated: Annotated[str | None, "a glob of what it is renamed or copied to; left out: `PATH.*`"] = None
    start: Annotated[Literal["beginning", "end"], "where to begin in the file without a committed position"] = (
        "beginning"
    )
    every: Annotated[Duration, "between two looks at a file that has no more"] = 0.2
    settle: Annotated[Duration, "how long a renamed file must not have grown until it is left"] = 1.0
    max_line: Annotated[Size, "a longer line is a dead letter"] = 1 << 20

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is empty: allowed is the name of a file")
        if not self.every > 0:
            raise ValueError(f"every is {self.every}: allowed is any time above 0")
        if self.max_line < 1:
            raise ValueError(f"max_line is {self.max_line}: allowed is 1 byte or more")


class Tail(Source[Options, Position]):
    @override
    def source(self, context: Context[Options, Position]) -> Iterator[tuple[Position, Any]]:
        follower = _Follower(context)
        for file in follower.files():
            with file.handle:
                yield from file.records()
            if context.stopping.is_set():
                return


class _Follower:
    """Which file comes next."""

    def __init__(self, context: Context[Options, Position]) -> None:
        self._context = context
        self._options = context.options
        self._path = str(context.config_dir / Path(context.options.path).expanduser())
        self._rotated = str(
            context.config_dir / Path(context.options.rotated or f"{context.options.path}.*").expanduser()
        )
        self._said = ""

    def files(self) -> Iterator[_File]:
        """Opened, where they are to be read from. Another is asked for when one has no more."""
        position = self._context.position or self._begun()
        file = self._resumed(position) if position is not None else self._first()
        while file is not None:
            yield file
            file = self._found(lambda left=file: self._after(left))  # type: ignore[misc]

    def _found(self, look: Callable[[], _File | None]) -> _File | None:
        """What a look finds, sooner or later. None if the source is to stop."""
        stopping = self._context.stopping
        while not stopping.is_set():
            if (file := look()) is not None:
                return file
            stopping.wait(self._options.every)
        return None

    def _first(self) -> _File | None:
        file = self._found(self._current)
        if file is not None:
            if self._options.start == "end":
                file.go_to_end()
            _begun_in(self._context).write_text(json.dumps([file.inode, file.mark, file.offset]))
        return file

    def _begun(self) -> Position | None:
        """Where the first start began, for one that comes before a position is committed: the file may be rotated by then."""
        try:
            inode, mark, offset = json.loads(_begun_in(self._context).read_text())
        except (OSError, ValueError):
            return None
        return [inode, mark, offset]

    def _resumed(self, position: Position) -> _File | None:
        inode, mark, offset = position
        here = self._all()
        for path, status in here:  # the file itself, and then its copy
            if status.st_ino == inode and (file := self._at(path, inode, mark, offset)) is not None:
                return file
        for path, _ in reversed(here):
            if (file := self._at(path, inode, mark, offset)) is not None:
                return file
        if here and here[-1][0] == self._path and here[-1][1].st_ino == inode:
            return self._open(self._path)  # it was truncated, and there is no copy
        if here:
            self._context.log.warning(
                "the file in which %s was read (inode %d) is gone: goes on with %s", self._path, inode, here[0][0]
            )
            return self._open(here[0][0])
        return self._first()

    def _after(self, left: _File) -> _File | None:
        """The file that was begun when that one was left. None while there is none."""
        here = self._all()
        if left.was_truncated:
            # The rest is in its copy. The files that follow the copy follow then.
            for path, _ in reversed(here):
                if path != self._path and (copy := self._at(path, left.inode, left.mark, left.offset)) is not None:
                    return copy
            return (
                self._open_first(path for path, status in here if status.st_ino == left.real_inode) or self._current()
            )
        inodes = [status.st_ino for _, status in here]
        if left.real_inode in inodes:
            return self._open_first(path for path, _ in here[inodes.index(left.real_inode) + 1 :])
        return self._current()  # it was removed, or compressed, once it had been read

    def _is_followed(self, inode: int) -> bool:
        """Whether there is a file that was begun after the one with this inode."""
        with suppress(OSError):
            return os.stat(self._path).st_ino != inode
        here = self._all()  # it was renamed, and another is not there yet; but what was rotated after it may be
        return bool(here) and here[-1][1].st_ino != inode

    def _open_first(self, paths: Iterable[str]) -> _File | None:
        return next(filter(None, map(self._open, paths)), None)

    def _all(self) -> list[tuple[str, os.stat_result]]:
        """All files of the log, the oldest first, and last the one that is written to."""
        found = []
        for path in {*glob.glob(self._rotated)} - {self._path}:
            if not path.endswith(_COMPRESSED):
                try:
                    found.append((path, os.stat(path)))
                except OSError:  # it was rotated further at this moment
                    continue
        found.sort(key=lambda one: (one[1].st_mtime_ns, -_number(one[0]), one[0]))
        with suppress(OSError):
            found.append((self._path, os.stat(self._path)))
        return found

    def _current(self) -> _File | None:
        return self._open(self._path)

    def _at(self, path: str, inode: int, mark: int, offset: int) -> _File | None:
        """The file, if it is the one with that mark and reaches so far. Its positions have the inode that was given."""
        file = self._open(path)
        if file is None:
            return None
        if os.fstat(file.handle.fileno()).st_size < offset or (offset and file.mark_now() != mark):
            file.handle.close()
            return None
        file.inode, file.mark = inode, mark
        file.go_to(offset)
        return file

    def _open(self, path: str) -> _File | None:
        try:
            file = _File(path, self._path, self._context, self._is_followed)
        except OSError as error:
            reason = f"{path}: {error.strerror}"
            if reason != self._said and not self._context.stopping.is_set():
                self._context.log.warning("waits for a file that can be read: %s", reason)
            self._said = reason
            return None
        self._said = ""
        return file


def _begun_in(context: Context[Options, Position]) -> Path:
    return context.state_dir / "begun.json"


def _number(path: str) -> int:
    """That of a file which is numbered. Of two that were changed at the same moment, log.2 is older than log.1."""
    suffix = path.rpartition(".")[2]
    return int(suffix) if suffix.isdecimal() and len(suffix) <= _DIGITS else 0


class _File:
    """One file, from where it is to be read.

    inode       what its positions say;  real_inode: that of this file, which may be a copy
    mark        a checksum of the first line, once that is whole
    was_truncated  it is shorter than what was read of it, or has begun anew
    """

    def __init__(
        self, path: str, log: str, context: Context[Options, Position], is_followed: Callable[[int], bool]
    ) -> None:
        self.path = path
        self.handle: BinaryIO = open(path, "rb")  # noqa: SIM115 - whoever reads it closes it
        self.inode = self.real_inode = os.fstat(self.handle.fileno()).st_ino
        self.was_truncated = False
        self.offset = 0
        self.mark = 0
        self._log = log
        self._options = context.options
        self._stopping = context.stopping
        self._is_followed = is_followed

    def go_to(self, offset: int) -> None:
        self.offset = offset
        self.handle.seek(offset)
        if offset:
            self.mark = self.mark_now()

    def go_to_end(self) -> None:
        """To the line that is begun, or begins next."""
        size = os.fstat(self.handle.fileno()).st_size
        start = max(0, size - self._options.max_line)
        self.go_to(start + os.pread(self.handle.fileno(), size - start, start).rfind(b"\n") + 1)

    def mark_now(self) -> int:
        start = os.pread(self.handle.fileno(), _MARKED, 0)
        line, newline, _ = start.partition(b"\n")
        return zlib.crc32(line + newline)

    def ended(self) -> bool:
        return os.fstat(self.handle.fileno()).st_size <= self.offset

    def records(self) -> Iterator[tuple[Position, Any]]:
        """Until the file has no more and another has taken its place, or the source is to stop."""
        is_stopping, read = self._stopping.is_set, self.handle.readline
        most = self._options.max_line + 1
        while not is_stopping():
            line = read(most)
            if line.endswith(b"\n") or self._ends_late(line):
                yield from self._record(line)
                continue
            end = self.handle.tell()
            if self._is_over(end):
                if line:
                    yield from self._record(line)  # nobody will end it
                return
            self.handle.seek(self.offset)  # half a line is read again when it is whole
            self._stopping.wait(self._options.every)
            if self._is_other():
                return

    def _record(self, line: bytes) -> Iterator[tuple[Position, Any]]:
        if not self.offset:
            self.mark = self.mark_now()
        self.offset = self.handle.tell() if len(line) > self._options.max_line else self.offset + len(line)
        position = [self.inode, self.mark, self.offset]
        if len(line) > self._options.max_line:
            reason = f"{self._log}: a line longer than {self._options.max_line} bytes"
            yield position, BadRecord(reason, line[:_RAW_KEPT])
        elif self._options.format == "lines":
            text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "replace")
            yield position, {"path": self._options.path, "text": text}
        elif not line.isspace():
            yield position, json_value(line, self._log)

    def _ends_late(self, line: bytes) -> bool:
        """Whether it is a line that is too long, and has an end. Then all of it has been read."""
        if len(line) <= self._options.max_line:
            return False
        while part := self.handle.readline(self._options.max_line):
            if part.endswith(b"\n"):
                return True
        return False

    def _is_other(self) -> bool:
        """Whether the file was truncated. Where it has grown since, its first line tells."""
        size = os.fstat(self.handle.fileno()).st_size
        self.was_truncated = size < self.offset or (self.offset > 0 and self.mark_now() != self.mark)
        return self.was_truncated

    def _is_over(self, end: int) -> bool:
        """Whether the log goes on in another file, and nobody has written to this one any more, which was read up to `end`."""
        status = os.fstat(self.handle.fileno())
        quiet = status.st_size <= end and time.time() - status.st_mtime >= self._options.settle
        return quiet and self._is_followed(self.real_inode)
