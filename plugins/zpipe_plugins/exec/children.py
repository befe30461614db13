"""The programs of one stage of `exec`: one for each call under way, kept between calls, started again when they end.

What a program's failure means belongs here: for its messages, and for the stage. What is said to a program does not.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from zpipe import Context, Retry, Throttled
from zpipe.errors import Answer, OperatorError
from zpipe_plugins.exec.child import NOT_FOR_CHILDREN, Child, Ended, Late, Stderr
from zpipe_plugins.exec.formats import Format

FIRST_DELAY_S, MAX_DELAY_S = 0.1, 5.0
"""Before a program is started again after one that has answered nothing, doubling."""
MOST_UNANSWERED = 3
"""Messages for which a program may end or hang before any program of the stage has answered one. Then it is the stage's fault."""
BUFFERING = (
    "does it buffer its output? `stdbuf -oL`, `jq --unbuffered`, `mawk -W interactive` and `fflush` are ways out"
)
PASSED_OVER = (
    'though others of the stage did for other messages: in mode "line" each needs a line. Where some are passed over, '
    'take "envelope" or "filter"'
)
SHARED = "its program was ended while it had several messages: it is run again alone"


class Children:
    """Takes a program's name, and the text of its input and output, from the options. Raises OperatorError."""

    def __init__(self, context: Context, form: Format, *, keeps_silence: bool) -> None:
        self._context = context
        self._command: list[str] = context.options.command
        self._form = form
        self._keeps_silence = keeps_silence
        self._env = {key: value for key, value in os.environ.items() if key not in NOT_FOR_CHILDREN}
        self._env["PYTHONUNBUFFERED"] = "1"
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self._live: set[Child] = set()
        self._number = 0
        self._delay_s = 0.0
        self._answered = False
        self._failed_ids: set[str] = set()
        self._closing = threading.Event()
        self._stderr = Stderr(context.log)
        self._leftovers = Leftovers(context.state_dir / "children")
        # Nobody closes a stage that fails, nor one that `zpipe.testing` kills; what it has started ends with it all the same.
        weakref.finalize(self, _end_all, self._live, self._stderr)

    # ---- a program for a call

    def take(self) -> Child:
        """One that waits for input, or a new one. Blocks for the back-off of one that is started again."""
        while True:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            if child is None:
                return self.start()
            if self._is_sound(child):
                return child

    def start(self, env: dict[str, str] | None = None) -> Child:
        if self._delay_s:
            self._closing.wait(self._delay_s)
        with self._lock:
            self._number += 1
            name = f"{Path(self._command[0]).name}#{self._number}"
        try:
            child = Child(
                name, self._command, self._context.config_dir, self._env | (env or {}), self._form, self._stderr
            )
        except OSError as error:
            raise OperatorError(f"cannot start {self._command[0]!r}: {error.strerror or error}") from None
        self._leftovers.note(child.pid)
        with self._lock:
            self._live.add(child)
        return child

    def _is_sound(self, child: Child) -> bool:
        """Whether it can be given messages: it lives, and has written nothing since it answered its last ones."""
        try:
            unasked = child.unasked(0.0)
        except Ended as end:
            self._context.log.warning("%s %s while it had no message: it is started again", child.name, end)
            self.drop(child)
            return False
        if not unasked and not child.in_an_item:
            return True
        self.drop(child)
        if self._keeps_silence:
            raise OperatorError(
                f"{child.name} wrote more than one line for each of its messages, so an answer may have gone to another "
                f'message: {str(unasked)[:200]}. Take mode "filter" or "envelope", or have it write one line for each'
            )
        self._context.log.warning("%s wrote what no message has asked for: %s", child.name, str(unasked)[:500])
        return False

    def give_back(self, child: Child) -> None:
        """It has answered all that it was given."""
        self.note_answer()
        self._delay_s = 0.0
        with self._lock:
            self._idle.append(child)

    def drop(self, child: Child) -> None:
        """Ends it."""
        child.kill()
        with self._lock:
            self._live.discard(child)
        self._leftovers.forget(child.pid)

    # ---- a program that failed

    def failed(self, child: Child, fault: Ended | Late, ids: Sequence[str], timeout_s: float) -> Answer:
        """What becomes of the messages that it has not answered. It is ended. Raises OperatorError if the stage is to blame."""
        try:
            if isinstance(fault, Late):
                reason = self._late(child, timeout_s)
            else:
                reason = f"{child.name} {fault}"
                self._context.log.warning(
                    "%s %s: it had %d messages, and is started again", child.name, fault, len(ids)
                )
        finally:
            self._back_off(child)
            self.drop(child)
        if len(ids) > 1:
            return Throttled(0.0, SHARED)
        self.blame(ids[0], reason)
        return Retry(reason=reason)

    def blame(self, id: str, reason: str) -> None:
        """A program has failed that had this message alone. Raises OperatorError if none has ever answered, whatever it had."""
        if not self._answered:
            self._failed_ids.add(id)
            if len(self._failed_ids) >= MOST_UNANSWERED:
                raise OperatorError(f"no program of the stage has answered any of its first messages: {reason}")

    def note_answer(self) -> None:
        """A program has done what it was given."""
        self._answered = True

    def _back_off(self, child: Child) -> None:
        self._delay_s = 0.0 if child.answered else min(max(2 * self._delay_s, FIRST_DELAY_S), MAX_DELAY_S)

    def _late(self, child: Child, timeout_s: float) -> str:
        """Why it is silent. One that writes as soon as its input is closed, and not before, has only kept its lines back."""
        reason = f"{child.name} wrote no line within {timeout_s:g} s"
        if child.answered or not child.has_read_all:
            reason += "" if child.answered else ", and has not read its input"
            self._context.log.warning("%s: it is killed, and started again", reason)
            return reason
        child.put(b"", ends=True)
        with suppress(Late, Ended):
            if child.take(1.0):
                raise OperatorError(
                    f"{child.name} gave no line for its first batch within {timeout_s:g} s, but did when its input was closed: "
                    f"{BUFFERING}"
                )
        passed_over = self._answered and self._keeps_silence
        reason = f"{reason}, {PASSED_OVER}" if passed_over else f"{reason}, and none before: {BUFFERING}"
        self._context.log.warning("%s: it is killed, and started again", reason)
        return reason

    # ---- the end

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            idle, live = list(self._idle), set(self._live)
            self._idle.clear()
            self._live.clear()
        for child in live - set(idle):
            child.end_from_outside()
        closing = [threading.Thread(target=child.close, daemon=True) for child in idle]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        self._stderr.close()
        self._leftovers.close()


def _end_all(live: set[Child], stderr: Stderr) -> None:
    for child in list(live):
        child.kill()
    stderr.close()


class Leftovers:
    """Which programs run, in a file, so that those of a killed stage are ended by its next life.

    Most end by themselves, since their input is closed. One that hangs would not, and would keep what it has open.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._end_all(folder)
        self._path = folder / _life_of(os.getpid())
        self._lock = threading.Lock()
        self._running: dict[int, str] = {}

    def _end_all(self, folder: Path) -> None:
        for file in folder.iterdir():
            owner, _, _ = file.name.partition("-")
            if owner.isdigit() and _life_of(int(owner)) == file.name:
                continue  # a sibling's: each worker process has its own programs
            with suppress(OSError):
                for life in file.read_text().split():
                    pid = int(life.partition("-")[0])
                    if _life_of(pid) == life:
                        with suppress(ProcessLookupError, PermissionError):
                            os.killpg(pid, signal.SIGKILL)
                file.unlink()

    def note(self, pid: int) -> None:
        with self._lock:
            self._running[pid] = _life_of(pid)
            self._write()

    def forget(self, pid: int) -> None:
        with self._lock:
            self._running.pop(pid, None)
            self._write()

    def _write(self) -> None:
        with suppress(OSError):  # a disk that is full must not keep a program from being started
            self._path.write_text(" ".join(self._running.values()))

    def close(self) -> None:
        with suppress(OSError):
            self._path.unlink()


def _life_of(pid: int) -> str:
    """Its number and when it was started, so that another process of the same number is not taken for it; "" if there is none."""
    try:
        return f"{pid}-{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except OSError:
        return ""


def problem_of(command: list[str], folder: Path) -> str:
    """Why the command cannot be started, as far as can be seen; "" if it can."""
    program = command[0]
    if "/" not in program:
        return "" if shutil.which(program) else f"there is no program {program!r} on the PATH"
    path = folder / program
    if not path.is_file():
        return f"there is no file {path}"
    return "" if os.access(path, os.X_OK) else f"{path} is not executable: chmod +x {path}"
