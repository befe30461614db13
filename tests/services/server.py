"""A server that the tests own: a process with files in a folder of its own, on a port of its own, that they kill and restart.

Starting it, waiting until it answers, and ending it belong here. Must not live here: what a certain server is called and how it
is configured, which is in `servers.py`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, TypeVar

import needs
from ports import free_ports

START_S = 90.0
STOP_S = 30.0
POLL_S = 0.02


class Server:
    """A server process. A subclass says which; `running` makes one and ends it.

    program  its executable
    need     what brings it (`needs.py`); "" where the Python of the tests does
    user     who runs it where the tests are root and the server refuses root; "" if it does not
    """

    program: ClassVar[str]
    need: ClassVar[str] = ""
    user: ClassVar[str] = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_ports(1)[0]
        self._process: subprocess.Popen[bytes] | None = None

    # ---- what a subclass says

    def make(self) -> None:
        """Once, before the first start: makes the files that the server needs in `folder`."""

    def command(self) -> list[str]:
        """What starts it in the foreground."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises anything while the server cannot be used."""
        socket.create_connection(("127.0.0.1", self.port), timeout=1).close()

    def environment(self) -> dict[str, str]:
        return {}

    # ---- its life

    @classmethod
    def found(cls) -> Path | None:
        """The executable; None where it is not installed."""
        return needs.server_program(cls.need) if cls.need else Path(cls.program)

    @classmethod
    def require(cls) -> None:
        """Skips the test where it is not installed."""
        if cls.need:
            needs.skip_without(cls.need)

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it, if it does not run, and returns once it answers."""
        if self.running:
            return
        self.log.touch()
        if self._owner:
            shutil.chown(self.log, self._owner)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_owner(), *self.command()],
                cwd=self.folder,
                env={**os.environ, "HOME": str(self.folder), **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until(self._answers, "answers", START_S)

    def stop(self) -> None:
        """Ends it in order; kills it if it does not end."""
        if self._process is None:
            return
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """`kill -9` of all its processes. `start` starts it again on the same port, with the same files."""
        assert self._process is not None
        group = self._process.pid
        with suppress(ProcessLookupError):
            os.kill(group, signal.SIGSTOP)  # so that it makes no more of them
        members = set(_members(group))
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        self._wait_until(lambda: not any(map(_runs, members)), "is gone", STOP_S)

    def pause(self) -> None:
        """It stands still until `resume`; its kernel goes on taking connections."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def restart(self) -> None:
        self.stop()
        self.start()

    _stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    @property
    def _owner(self) -> str:
        return self.user if os.getuid() == 0 else ""

    def _as_owner(self) -> list[str]:
        """It ends with the tests, whatever ends them."""
        owner = (
            [f"--reuid={self._owner}", f"--regid={pwd.getpwnam(self._owner).pw_gid}", "--clear-groups"]
            if self._owner
            else []
        )
        return ["setpriv", *owner, "--pdeathsig", "KILL", "--"]

    def call(self, *command: str | Path) -> None:
        """Runs a program of the server's, as the server's user, to its end. For `make`."""
        words = [*self._as_owner(), *map(str, command)]
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, timeout=START_S)
        assert done.returncode == 0, f"{' '.join(words)}:\n{done.stdout}\n{done.stderr}"

    def _answers(self) -> bool:
        assert self._process is not None
        if (code := self._process.poll()) is not None:
            raise AssertionError(f"{self.program} ended with {code}:\n{self.last_words()}")
        try:
            self.check()
        except Exception:
            return False
        return True

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.is_file() else ""

    def _wait_until(self, condition: Callable[[], bool], what: str, deadline_s: float) -> None:
        end, pause = time.monotonic() + deadline_s, threading.Event()
        while not condition():
            assert time.monotonic() < end, f"not within {deadline_s:g} s: {self.program} {what}\n{self.last_words()}"
            pause.wait(POLL_S)


S = TypeVar("S", bound=Server)


@contextmanager
def running(kind: type[S]) -> Iterator[S]:
    """A server of this kind. Skips the test where it is not installed."""
    kind.require()
    folder = Path(tempfile.mkdtemp(prefix="zp-", dir="/tmp"))
    server = kind(folder)
    try:
        if server._owner:
            shutil.chown(folder, server._owner)
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _members(group: int) -> Iterator[int]:
    """Processes of a process group, and the children of its leader: PostgreSQL gives each a group of its own. Without those that
    are dead already."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            state, parent, process_group = _status(int(entry.name))
            if group in (parent, process_group) and state not in "ZX":
                yield int(entry.name)


def _runs(pid: int) -> bool:
    state, _, _ = _status(pid)
    return state not in "ZX"


def _status(pid: int) -> tuple[str, int, int]:
    """Of a process: its state (X: there is none), its parent, its process group."""
    try:
        state, parent, group = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return "X", 0, 0
    return state, int(parent), int(group)
