"""A real terminal: tmux with a server of its own, whose screen can be read and typed into. Its tests need "tmux"."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

DEADLINE_S = 60.0

_NUMBERS = count(1)


class Tmux:
    """One window of `width` x `height` in which `command` runs."""

    def __init__(self, home: Path, command: list[str], width: int, height: int, **env: str) -> None:
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

    def click(self, x: int, y: int) -> None:
        """As a terminal reports it to a program that asked for the mouse (SGR)."""
        self._tmux("send-keys", "-l", f"\x1b[<0;{x + 1};{y + 1}M")
        self._tmux("send-keys", "-l", f"\x1b[<0;{x + 1};{y + 1}m")

    def drag(self, x: int, to: int, y: int) -> None:
        for code, at, end in ((0, x, "M"), (32, (x + to) // 2, "M"), (32, to, "M"), (0, to, "m")):
            self._tmux("send-keys", "-l", f"\x1b[<{code};{at + 1};{y + 1}{end}")

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
