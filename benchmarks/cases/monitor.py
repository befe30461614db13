"""N10: `zpipe monitor` on twenty stages, in a terminal of 80 columns and 40 lines."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from pathlib import Path

from benchmarks.benchmark import Benchmark, Effort, Side
from benchmarks.figures import Comparison, Metrics, at_most, exactly
from benchmarks.peers.zpipe import Pipeline, Zpipe
from benchmarks.processes import cpu_s, end, wait_until
from benchmarks.window import Load, wait_for_first

COUNT = 20
LINES, COLUMNS = 40, 80
LOAD = Load(rate=100)
SETTLE_S = 3.0
_POSITION = re.compile(rb"\x1b\[[0-9;]*H")
_ESCAPE = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\x1b[=>]")


class Terminal:
    """A program in a terminal of its own, whose output is read as it comes."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            command,
            env={**env, "TERM": "xterm-256color", "LINES": str(LINES), "COLUMNS": str(COLUMNS)},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            text=True,
        )
        os.close(theirs)
        self.output = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the program has gone
            while part := os.read(self._ours, 65536):
                self.output += part

    def press(self, key: str) -> None:
        os.write(self._ours, key.encode())

    def text(self) -> str:
        """What was written, line by line: each line of the screen begins with a position."""
        return _ESCAPE.sub(b"", _POSITION.sub(b"\n", self.output)).decode(errors="replace")

    def close(self) -> None:
        end(self.process)
        self._reader.join(5)
        os.close(self._ours)


def visible(text: str, stages: list[str]) -> int:
    """How many of the stages are named in the text."""
    named = set(re.findall(r"[\w-]+", text))
    return sum(stage in named for stage in stages)


def _zpipe(effort: Effort) -> Metrics:
    with Zpipe(middles=COUNT - 2).running(LOAD) as running:
        assert isinstance(running, Pipeline)
        wait_for_first(running)
        stages = ["source", *(f"map{n + 1:02}" for n in range(COUNT - 2)), "sink"]
        started = time.monotonic()
        terminal = Terminal(running.command("monitor", str(running.config)), running.env)
        try:
            wait_until(lambda: visible(terminal.text(), stages) == COUNT, "all stages on the screen", 30)
            first_s = time.monotonic() - started
            time.sleep(SETTLE_S)
            keys_s = [_answer_s(terminal, "2", "time spent"), _answer_s(terminal, "6", "who and what happened")]
            terminal.press("1")
            time.sleep(1.0)
            seen = visible(terminal.text(), stages)
            pid, written = terminal.process.pid, len(terminal.output)
            began, before = time.monotonic(), cpu_s(pid)
            time.sleep(effort.long_window_s)
            seconds = time.monotonic() - began
            used, written = (cpu_s(pid) - before) / seconds, len(terminal.output) - written
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        finally:
            terminal.close()
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return {
        "percent": used * 100,
        "stages": seen,
        "mib": memory,
        "kb_s": written / seconds / 1000,
        "first_s": first_s,
        "key_ms": max(keys_s) * 1000,
    }


def _answer_s(terminal: Terminal, key: str, text: str) -> float:
    """From a key to what it shows, in seconds."""
    before, pressed = len(terminal.output), time.monotonic()
    terminal.press(key)
    wait_until(lambda: text.encode() in terminal.output[before:], f"{text!r} on the screen", 30)
    return time.monotonic() - pressed


BENCHMARKS = (
    Benchmark(
        "N10",
        f"`zpipe monitor` on {COUNT} stages, {COLUMNS} x {LINES}",
        [Side("zpipe", _zpipe)],
        [
            Comparison("CPU", "% of a core", ("zpipe", "percent"), None, at_most(3)),
            Comparison("memory", "MiB", ("zpipe", "mib"), None, at_most(80)),
            Comparison("to the terminal", "kB/s", ("zpipe", "kb_s"), None, at_most(20)),
            Comparison("first picture", "s", ("zpipe", "first_s"), None, at_most(1)),
            Comparison("key to picture", "ms", ("zpipe", "key_ms"), None, at_most(100)),
            Comparison("stages on the screen", "", ("zpipe", "stages"), None, exactly(COUNT)),
        ],
    ),
)
