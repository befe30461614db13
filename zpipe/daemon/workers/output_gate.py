"""The gate that early outputs wait at. May live here: that."""

from __future__ import annotations

import threading


class OutputGate:
    """Open while the stage's outputs have room. Workers that emit early wait at it, never the loop."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def set(self, open: bool) -> None:
        if open:
            self._open.set()
        else:
            self._open.clear()

    def wait(self) -> None:
        self._open.wait()
