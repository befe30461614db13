"""`ndjson`: appends one line of JSON for each message, and never leaves half a line in the file.

A call returns when its lines are on the disk (fsync), so give the stage a `batch` table. Half a line that a killed
instance left is cut off by whoever writes next. Several instances may write one file. Bytes become base64 text, NaN and
infinities `null`. Standard output (`-`) is neither synced nor repaired. In the middle of a pipeline it passes on what it
wrote.

| fault | what follows |
|---|---|
| the disk is full, or cannot be written | the stage waits |
| nobody reads standard output any more | the stage ends |
| the file cannot be opened | the stage does not start |

**Redelivery.** A message that is delivered twice is in the file twice, since the plugin does not look for ids.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from zpipe import BatchMap, Context, Message, Throttled, Traits, override
from zpipe.errors import OperatorError
from zpipe_plugins.jsontext import json_text

_BLOCK = 1 << 16
STDOUT = 1
_AGAIN_S = 1.0
UNREAD = "nobody reads standard output any more"


@dataclass
class Options:
    path: Annotated[str, "the file to append to, relative to the config file, or `-` for standard output"]

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is empty: allowed is the name of a file, or '-' for standard output")


class Ndjson(BatchMap[Options]):
    """Not a Sink, since a stage may read from it: it passes on what it has written."""

    @override
    def traits(self, options: Options, config_dir: Path) -> Traits:
        return Traits(writes=() if options.path == "-" else (_path(options, config_dir),))

    @override
    def open(self, context: Context[Options]) -> None:
        path = context.options.path
        try:
            is_stdout = path == "-"
            self._output = LineOutput(STDOUT if is_stdout else _open_file(_path(context.options, context.config_dir)))
            if self._output.is_unread():
                raise OperatorError(UNREAD)
            with self._output.exclusive():
                cut = self._output.repair()
        except OSError as error:
            raise OperatorError(f"cannot write to {path}: {error.strerror or error}") from error
        if cut:
            context.log.warning("%s ended in %d bytes of a line that was never finished: cut off", path, cut)

    @override
    def close(self, context: Context[Options]) -> None:
        if hasattr(self, "_output"):  # one that is told to leave while it starts may not be open
            self._output.close()

    @override
    def process(self, message: Message, context: Context[Options]) -> Any:
        self._write(_line(message.payload), context)
        return None if context.last else _passed_on(message)

    @override
    def process_batch(self, messages: list[Message], context: Context[Options]) -> list[Any] | None:
        self._write(b"".join([_line(message.payload) for message in messages]), context)
        return None if context.last else list(map(_passed_on, messages))

    def _write(self, lines: bytes, context: Context[Options]) -> None:
        """Appends the lines. An error here is never the fault of a message, so the message is tried again and keeps its
        attempts."""
        path = context.options.path
        try:
            self._output.write(lines)
        except BrokenPipeError:
            raise OperatorError(UNREAD) from None
        except OSError as error:
            raise Throttled(_AGAIN_S, f"{path}: {error.strerror or error}") from error


def _path(options: Options, config_dir: Path) -> Path:
    return config_dir / Path(options.path).expanduser()


def _passed_on(message: Message) -> Message:
    """The payload as a Message, since a bare None would be taken for a forgotten result."""
    return Message(message.payload)


def _line(payload: Any) -> bytes:
    return json_text(payload).encode() + b"\n"


# The file


def _open_file(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    if is_new:
        # The name of a new file is on the disk only after its folder is written.
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return descriptor


class LineOutput:
    """An open file or stream to which several threads, and several instances of the stage, append.

    A regular file has only whole lines whenever nobody has the lock. Whoever takes the lock first cuts off what a killed instance
    has left, so that no sibling appends to half a line.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Standard output must not be cut, even if it is a file.
        self._is_file = descriptor != STDOUT and stat.S_ISREG(os.fstat(descriptor).st_mode)
        # Siblings have inherited the same standard output, and `flock` would give all of them the lock.
        self._lock = fcntl.lockf if descriptor == STDOUT else fcntl.flock
        self._threads = threading.Lock()

    def close(self) -> None:
        if self._descriptor != STDOUT:
            os.close(self._descriptor)

    def is_unread(self) -> bool:
        """Whether it is a pipe whose reader has gone."""
        looking = select.poll()
        looking.register(self._descriptor, 0)
        return any(found & select.POLLERR for _, found in looking.poll(0))

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Blocks until no other thread or process writes. The kernel releases the lock if its holder is killed."""
        with self._threads:
            self._lock(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                self._lock(self._descriptor, fcntl.LOCK_UN)

    def write(self, lines: bytes) -> None:
        """Appends all of `lines` durably, or raises and leaves the file as it was."""
        with self.exclusive():
            self.repair()
            if not self._is_file:
                self._write_all(lines)
                return
            size = os.fstat(self._descriptor).st_size
            try:
                self._write_all(lines)
                os.fsync(self._descriptor)
            except BaseException:
                os.ftruncate(self._descriptor, size)
                raise

    def _write_all(self, lines: bytes) -> None:
        unwritten = memoryview(lines)
        while unwritten:
            try:
                unwritten = unwritten[os.write(self._descriptor, unwritten) :]
            except BlockingIOError:  # standard output was made non-blocking by another process
                select.select([], [self._descriptor], [])

    def repair(self) -> int:
        """Makes the file end with a whole line, and returns how many bytes were cut off. Call it inside `exclusive`."""
        size = os.fstat(self._descriptor).st_size if self._is_file else 0
        if not size or os.pread(self._descriptor, 1, size - 1) == b"\n":
            return 0
        start = self._last_line(size)
        if self._is_whole(start, size):
            self._write_all(b"\n")
            return 0
        os.ftruncate(self._descriptor, start)
        os.fsync(self._descriptor)
        return size - start

    def _last_line(self, size: int) -> int:
        """The offset of the text after the last newline. It is searched from the end, one block at a time."""
        end = size
        while end:
            start = max(0, end - _BLOCK)
            found = os.pread(self._descriptor, end - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0

    def _is_whole(self, start: int, size: int) -> bool:
        """Whether only the newline is missing, as in a file that was made by hand. Part of a number could look like a whole
        one, so only a map, a list or a string counts as whole."""
        if size - start > _BLOCK or os.pread(self._descriptor, 1, start) not in (b"{", b"[", b'"'):
            return False
        try:
            json.loads(os.pread(self._descriptor, size - start, start))
        except ValueError:
            return False
        return True
