"""How a worker process died, in words, and what that means for the messages that it had.

Pure functions of how it ended belong here. Must not live here: killing it, which is the `WorkerProcess`'.
"""

from __future__ import annotations

import signal
from pathlib import Path

from zpipe.core.work.task import Failure, Result, Task, Verdict
from zpipe.runtime.exception_text import TRACEBACK_CHARACTERS, clean

AGAIN = "another message of its task ended the worker process"
_MIB = 1 << 20


def how(code: int) -> str:
    """`code`: as `subprocess` has it, negative for a signal."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def reason(code: int) -> str:
    """The same in one of a few short forms, to be counted by: "SIGSEGV", "exit code 3"."""
    return f"exit code {code}" if code >= 0 else how(code).rpartition(" ")[2]


def in_call(code: int) -> str:
    return f"its worker process {how(code)}{' in the call' if code >= 0 else ''}"


def timed_out(timeout_s: float) -> str:
    return f"its call outlived the timeout of {timeout_s:g} s"


def too_large(rss_bytes: int, limit_bytes: int) -> str:
    return f"its worker process used {-(-rss_bytes // _MIB)} MiB, over the limit of {limit_bytes / _MIB:g} MiB"


def died_result(task: Task, note: int, reason: str, traceback: str, seconds: float) -> Result:
    """A task whose process died. All its outputs are lost, but only the message that the note names was in the call.

    Where the note names none, all are run again, each alone, so that there is nobody else to blame.
    """
    blamed = range(task.count) if task.batch or task.count == 1 else range(note - 1, note)
    failures = [
        Failure(n, reason, traceback, Verdict.DEATH) if n in blamed else Failure(n, AGAIN, verdict=Verdict.AGAIN)
        for n in range(task.count)
    ]
    return Result([], failures=failures, seconds=seconds)


def traceback_in(fd: int) -> str:
    """The end of what faulthandler wrote into the file of this descriptor."""
    path = Path(f"/proc/self/fd/{fd}")
    text = path.read_bytes()[-4 * TRACEBACK_CHARACTERS :].decode(errors="replace")
    return clean(text[-TRACEBACK_CHARACTERS:])
