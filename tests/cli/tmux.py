"""A real terminal: tmux with a server of its own, whose screen can be read and typed into."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

DEADLINE_S = 60.0
HEADS = {"STAGE", "STATE", "N", "IN/s", "OUT/s", "WORK", "BLKD", "LATELY", "LINK", "DEPTH", "FILL", "OLDEST", "WILL"}
"""Columns that a screen has whatever numbers stand in it."""


_NUMBERS = count(1)


class Tmux:
    """One window of `width` x `height` in which `command` runs."""

    def __init__(self, home: Path, command: list[str], width: int, height: int, **env: str) -> None:
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed (.ci/run installs it)")
        self._socket = str(home / f"tmux-{next(_NUMBERS)}")  # a server that ends may hold its socket for a moment yet
        words = ["exec", "env", *(f"{key}={value}" for key, value in env.items()), *command]
        self._tmux(
            *("-f", "/dev/null", "start-server", ";", "set-option", "-g", "remain-on-exit", "on", ";"),
            *("set-option", "-g", "remain-on-exit-format", "", ";", "set-option", "-g", "status", "off", ";"),
            *("new-session", "-d", "-x", str(width), "-y", str(height), " ".join(map(shlex.quote, words))),
        )
        self.resize(width, height)

    def _tmux(self, *arguments: str) -> str:
        result = subprocess.run(
            ["tmux", "-u", "-S", self._socket, *arguments], capture_output=True, text=True, check=True
        )
        return result.stdout

    def screen(self, *options: str) -> list[str]:
        return self._tmux("capture-pane", "-p", *options).splitlines()

    def ask(self, what: str) -> str:
        """A variable of tmux, such as alternate_on."""
        return self._tmux("display-message", "-p", f"#{{{what}}}").strip()

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def wait(self, condition: Callable[[list[str]], bool], what: str) -> list[str]:
        """The first screen of which the condition holds."""
        end = time.monotonic() + DEADLINE_S
        pause = threading.Event()
        while not condition(lines := self.screen()):
            assert time.monotonic() < end, f"not within {DEADLINE_S:g} s: {what}\n" + "\n".join(lines)
            pause.wait(0.05)
        return lines

    def close(self) -> None:
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], capture_output=True, check=False)


def monitor(config: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "zpipe", "monitor", str(config), *options]


def shape(lines: list[str]) -> str:
    """What does not depend on the numbers: heads, names and states of rows, sentences without figures, the keys."""
    found = []
    for line in lines:
        words = line.lstrip(" >*").split()
        if "STATE" in words or "LINK" in words:
            found.append(" ".join(word for word in words if word in HEADS))
        elif "->" in words:
            found.append(" ".join(words[: words.index("->") + 2]))
        elif len(words) > 1 and words[1] in ("run", "paused", "silent", "absent", "unheard", "stop", "drain"):
            found.append(" ".join(words[:2]))
        elif " is the limit: " in line:
            found.append(line.split(":")[0])
        elif words and line[0] != " " and words != ["EVENTS"] and not re.match(r"\d\d:\d\d:\d\d ", line):
            found.append(re.sub(r"\d+(:\d+)*", "N", " ".join(words)))
    return "\n".join(found) + "\n"
