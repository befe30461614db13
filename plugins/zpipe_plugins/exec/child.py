"""One program that `exec` runs: started, given items, read, ended. Whose fault its end is does not belong here.

All of it is for one thread at a time, but for `Stderr`, which has a thread of its own.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
import subprocess
import termios
import threading
import time
from array import array
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from zpipe_plugins.exec.formats import Format

PIPE_BYTES = 1 << 20
"""A program and the stage hand each other the loop less often than with the 64 KiB of Linux. What the kernel refuses stays so."""
READ_BYTES = 1 << 18
FEW, PAUSE_S = 8, 0.0004
"""While more items than these are due, a pause lets some of them come together. It is as long as `jq` takes for 40."""
START_S = 30.0
"""For a program to begin to read, whatever the timeout is for its answers."""
EOF_S = 1.0
"""For a program whose input was closed to write what it has left, and to end."""
NOT_FOR_CHILDREN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
STDERR_LINES, STDERR_BURST = 10.0, 50
"""Lines a second, and at once, of what all programs of a stage write to stderr, that are logged."""
STDERR_BYTES = 2000
"""Of a line that are logged."""
FLOOD_S = 0.001
"""Between two looks at a program that writes more than can be logged: it would keep a core busy otherwise."""


class Ended(Exception):
    """The program has ended, or closed its output. The text says how."""


class Late(Exception):
    """The program wrote nothing for too long."""


class Child:
    """A program under way. `answered`: it has written something since it was started. Raises OSError if it cannot be started."""

    def __init__(
        self, name: str, command: list[str], folder: Path, env: dict[str, str], form: Format, stderr: Stderr
    ) -> None:
        self.name = name
        self.answered = False
        self._cut = form.cut
        self._stderr = stderr
        # A group of its own: Ctrl-C is the stage's to hear, and what the program starts ends with it.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=env,
            process_group=0,
            bufsize=0,
        )
        self._exit = os.pidfd_open(self._process.pid)
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._in, self._out = self._process.stdin, self._process.stdout
        for pipe in (self._in, self._out):
            os.set_blocking(pipe.fileno(), False)
            with suppress(OSError):
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._start_until = time.monotonic() + START_S
        self._unwritten = memoryview(b"")
        self._given_bytes = self._refused_bytes = 0
        self._buffer = bytearray()
        self._over = False
        self._close_input = False
        stderr.watch(name, self._process.stderr.fileno())
        self._process.stderr.close()  # it has a copy

    @property
    def pid(self) -> int:
        return self._process.pid

    # ---- talking to it

    def put(self, data: bytes, ends: bool = False) -> None:
        """Has it be given more input while it is read. `ends`: then its input is closed. Must not be called with some left
        from before."""
        self._unwritten = memoryview(data)
        self._given_bytes, self._refused_bytes = len(data), 0
        self._close_input = ends
        self._write()

    def take(self, timeout_s: float, due: int = 1) -> list[Any]:
        """The next items, at least one. Raises Late if it writes nothing for so long, and Ended.

        due  so many will come. Of many, each would wake this thread, since a program that is to be read writes each by itself
        """
        if due > FEW and not self._unwritten:
            time.sleep(PAUSE_S)
        until = time.monotonic() + timeout_s
        while True:
            if self._buffer and (items := self._cut(self._buffer, self._over)):
                return items
            if self._over:
                raise Ended(self.how_it_ended())
            if not self._pump(until - time.monotonic()) and not self._is_starting:
                raise Late
            until = time.monotonic() + timeout_s

    def unasked(self, wait_s: float) -> list[Any]:
        """What it writes within `wait_s`, although it owes nothing. Raises Ended, also if it ended in the middle of an item."""
        until = time.monotonic() + wait_s
        items: list[Any] = []
        while not items and self._pump(until - time.monotonic()):
            items = self._cut(self._buffer, self._over)
        if self._over and not items:
            raise Ended(self.how_it_ended())
        return items

    @property
    def has_read_all(self) -> bool:
        """It has taken all its input out of the pipe, so what it has not answered is its own doing."""
        return not self._unread_bytes

    @property
    def has_read_nothing(self) -> bool:
        """Of what it was given last, so that its end has nothing to do with it."""
        return self._unread_bytes + self._refused_bytes == self._given_bytes

    @property
    def _unread_bytes(self) -> int:
        in_pipe = array("i", [0])
        if not self._in.closed:
            fcntl.ioctl(self._in.fileno(), termios.FIONREAD, in_pipe)
        return len(self._unwritten) + in_pipe[0]

    @property
    def _is_starting(self) -> bool:
        """It may not have come to its first message yet: on a busy machine an interpreter takes its time."""
        return not self.answered and time.monotonic() < self._start_until and not self.has_read_all

    @property
    def in_an_item(self) -> bool:
        """It has written a part of an item."""
        return bool(self._buffer)

    def _pump(self, wait_s: float) -> bool:
        """Waits until it can be read, and gives it its input meanwhile. False: it has written nothing for so long."""
        if self._over:
            return False
        until = time.monotonic() + wait_s
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        if self._unwritten:
            poll.register(self._in, select.POLLOUT)
        while True:
            ready = poll.poll(max(0, int(1000 * (until - time.monotonic()) + 0.999)))
            if not ready:
                return False
            for fd, _ in ready:
                if fd == self._out.fileno():
                    return self._read()
                self._write()
                if not self._unwritten:
                    poll.unregister(fd)

    def _read(self) -> bool:
        try:
            data = os.read(self._out.fileno(), READ_BYTES)
        except BlockingIOError:
            return False
        self._over = not data
        self._buffer += data
        self.answered |= bool(data)
        return True

    def _write(self) -> None:
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._in.fileno(), self._unwritten) :]
        except BlockingIOError:
            return
        except (BrokenPipeError, ValueError):  # it reads no more: what it still writes counts
            self._refused_bytes = len(self._unwritten)
            self._unwritten = memoryview(b"")
        if self._close_input:
            self._in.close()

    # ---- its end

    def how_it_ended(self) -> str:
        """Waits a moment for its exit, and says how it was, with the last line of its stderr."""
        code = self._wait(EOF_S)
        if code is None:
            how = "closed its output"
        elif code < 0:
            how = f"was killed by {signal.Signals(-code).name if -code in _SIGNALS else f'signal {-code}'}"
        else:
            how = f"ended with exit code {code}"
        said = self._stderr.last(self.name)
        return f"{how}, after it wrote to stderr: {said}" if said else how

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    def _wait(self, seconds: float) -> int | None:
        """Its exit code, if it ends by then. With it ends what it has started: until it is reaped, nobody else has its number."""
        if self._process.returncode is None:
            poll = select.poll()
            poll.register(self._exit, select.POLLIN)
            if not poll.poll(int(seconds * 1000)):
                return None
            self._kill_group()
        return self._process.wait()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """In order: it may end by itself once its input is closed."""
        with suppress(OSError):
            self._in.close()
        self._wait(EOF_S)
        self.kill()

    def end_from_outside(self) -> None:
        """Has it end while another thread is in a call with it, which then sees its end. From any thread."""
        with suppress(OSError):
            signal.pidfd_send_signal(self._exit, signal.SIGKILL)

    def kill(self) -> None:
        """Ends it now, with all that it has started."""
        if self._process.returncode is None:
            self._kill_group()
            self._process.wait()
        for pipe in (self._in, self._out):
            with suppress(OSError):
                pipe.close()
        os.close(self._exit)
        self._stderr.leave(self.name)


_SIGNALS = {number.value for number in signal.Signals}


class Stderr:
    """What the programs of a stage write to stderr, logged line by line with the program's name, at a bounded rate.

    It is read as fast as it comes, so that a program never waits because it has much to say.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lock = threading.RLock()  # a garbage collection in `_wake` may close it
        self._names: dict[int, str] = {}
        self._last: dict[str, str] = {}
        self._parts: dict[int, bytes] = {}
        self._new: deque[tuple[int, str]] = deque()
        self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._tokens, self._filled_at = float(STDERR_BURST), time.monotonic()
        self._unlogged = 0
        self._closing = self._ended = False
        self._thread = threading.Thread(target=self._run, name="zpipe-exec-stderr", daemon=True)
        self._thread.start()

    def watch(self, name: str, fd: int) -> None:
        """`fd` is read until its end, whatever becomes of the program's object."""
        self._new.append((os.dup(fd), name))
        self._wake()

    def last(self, name: str) -> str:
        """The last line that the program wrote. One that has just ended may have written it a moment ago."""
        self._wake()
        until = time.monotonic() + 0.2
        while time.monotonic() < until and (name in self._names.values() or self._new):
            time.sleep(0.002)
        return self._last.get(name, "")

    def leave(self, name: str) -> None:
        self._last.pop(name, None)

    def close(self) -> None:
        self._closing = True
        self._wake()
        if self._thread is not threading.current_thread():  # where a garbage collection closes it
            self._thread.join(1.0)

    def _wake(self) -> None:
        """Nothing once it is closed: its descriptor may be another file's by then."""
        with self._lock, suppress(OSError):
            if not self._ended:
                os.write(self._wake_w, b".")

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        while not self._closing:
            ready = poll.poll(1000 if self._unlogged else None)
            for fd, _ in ready:
                if fd == self._wake_r:
                    os.read(fd, 4096)
                elif not self._take(fd):
                    poll.unregister(fd)
                    os.close(fd)
            while self._new:
                fd, name = self._new.popleft()
                self._names[fd] = name
                os.set_blocking(fd, False)
                poll.register(fd, select.POLLIN)
            self._say_unlogged()
        with self._lock:
            self._ended = True
            for fd in (*self._names, self._wake_r, self._wake_w):
                os.close(fd)

    def _take(self, fd: int) -> bool:
        """False at its end."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return True
        name = self._names[fd]
        now = time.monotonic()
        self._tokens = min(STDERR_BURST, self._tokens + (now - self._filled_at) * STDERR_LINES)
        self._filled_at = now
        if self._tokens < 1 and len(data) > 2 * STDERR_BYTES:  # a flood: lines are only counted, and it is slowed down
            self._unlogged += data.count(b"\n")
            data = data[-2 * STDERR_BYTES :]
            self._unlogged -= data.count(b"\n")
            time.sleep(FLOOD_S)
        lines = (self._parts.pop(fd, b"") + data).split(b"\n")
        if data:
            self._parts[fd] = lines.pop()[-STDERR_BYTES:]
        for line in lines:
            self._take_line(name, line)
        if not data:
            del self._names[fd]
        return bool(data)

    def _take_line(self, name: str, line: bytes) -> None:
        if not line.strip():
            return
        text = line[:STDERR_BYTES].decode("utf-8", "replace").rstrip()
        text = "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in text)
        self._last[name] = text
        if self._tokens >= 1:
            self._tokens -= 1
            self._log.warning("%s: %s", name, text)
        else:
            self._unlogged += 1

    def _say_unlogged(self) -> None:
        """As soon as one more line may be logged."""
        refilled = self._tokens + (time.monotonic() - self._filled_at) * STDERR_LINES
        if self._unlogged and refilled >= STDERR_BURST / 10:
            self._log.warning("%d more lines of stderr, which are not logged", self._unlogged)
            self._unlogged = 0
