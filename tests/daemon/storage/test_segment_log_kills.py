"""Processes that are killed while they write and read a disk buffer: what they have acked is there for the next."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "buffer_process.py"


def live(folder: Path, life: int, lines: int | None) -> list[list[str]]:
    """What a process has said until it was killed after so many lines, or has drained the buffer."""
    command = [sys.executable, str(PROGRAM), str(folder), str(life), *(["drain"] if lines is None else [])]
    said: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if lines is not None and len(said) == lines:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == (0 if lines is None else -signal.SIGKILL)
    return [line.split() for line in said if line.endswith("\n")]


def kill(folder: Path, times: int, seed: int) -> None:
    chance = random.Random(seed)
    acked: set[tuple[int, int]] = set()
    taken: set[tuple[int, int]] = set()
    for life in range(times + 1):
        said = live(folder, life, chance.randrange(1, 400) if life < times else None)
        for kind, *words in said:
            assert kind in ("A", "T", "E"), f"{kind} {words}"
            if kind != "E":
                of, start, stop = map(int, words)
                (acked if kind == "A" else taken).update((of, number) for number in range(start, stop))
    assert said[-1] == ["E"]
    assert len(acked) > times * 10
    assert not acked - taken, f"{len(acked - taken)} messages were acked and are gone"


def test_a_kill_loses_nothing_that_was_acked(tmp_path: Path) -> None:
    kill(tmp_path / "buffer", 6, 1)


@pytest.mark.stress
def test_two_hundred_kills_lose_nothing_that_was_acked(tmp_path: Path) -> None:
    kill(tmp_path / "buffer", 200, 2)
