"""Measures a daemon from the inside: the CPU time that it spends on statements, which carry credit and acks.

Python imports a module of this name at its start, from a folder in PYTHONPATH: so `zpipe` needs no hook for it. It counts writing
and reading a statement, and all that follows from one at the producer, up to the source's position.
"""

from __future__ import annotations

import functools
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from zpipe.core.downstream.outlet import Outlet
from zpipe.core.upstream.inlet_session import InletSession
from zpipe.core.wire import frames

P = ParamSpec("P")
R = TypeVar("R")


class _Counter:
    """Nanoseconds, in a file named by the pid. `deep`: the time is counted already, by what called this."""

    def __init__(self, folder: Path) -> None:
        with (folder / str(os.getpid())).open("w+b") as file:
            file.truncate(8)
            self._slot = memoryview(mmap.mmap(file.fileno(), 8)).cast("q")
        self._deep = False

    def timed(self, function: Callable[P, R], counts: Callable[[object], bool] = lambda _: True) -> Callable[P, R]:
        """`counts` says by the first argument and by the result whether a call was about a statement."""

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            if self._deep:
                return function(*args, **kwargs)
            self._deep = True
            began = time.thread_time_ns()
            try:
                result = function(*args, **kwargs)
            finally:
                self._deep = False
            if counts(args[0]) or counts(result):
                self._slot[0] += time.thread_time_ns() - began
            return result

        return wrapper


def _is_statement(value: object) -> bool:
    return isinstance(value, frames.Statement)


if folder := os.environ.get("BENCH_PROBE"):
    _counter = _Counter(Path(folder))
    InletSession.state = _counter.timed(InletSession.state)  # type: ignore[method-assign]
    Outlet.read_statement = _counter.timed(Outlet.read_statement)  # type: ignore[method-assign]
    frames.write = _counter.timed(frames.write, _is_statement)
    frames.read = _counter.timed(frames.read, _is_statement)
