"""The terminal that the screen stands on: what ends the program from outside, and whether the terminal is still there.

Must not live here: what is drawn on it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
GONE_S = 2.0
"""How long the screen may take to end after its terminal has gone."""


class Terminal:
    """`ended_by`: the signal that ended the screen; 0: none did."""

    def __init__(self) -> None:
        self.ended_by = 0
        self._keys = sys.__stdin__.fileno() if sys.__stdin__ is not None and sys.__stdin__.isatty() else None

    @property
    def gone(self) -> bool:
        """Whether it was closed. Who opened it may ignore the signal (nohup)."""
        return self._keys is not None and not os.isatty(self._keys)

    def on_signal(self, end: Callable[[int], None]) -> None:
        """Has `end` called with the number of a signal that is to end the program, also if it was blocked at the start."""
        loop = asyncio.get_running_loop()
        for number in ENDS:
            with suppress(RuntimeError, ValueError):  # no loop of a main thread: a test
                loop.add_signal_handler(number, end, number)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})

    def end(self, number: int) -> None:
        """Notes the signal. The exit status is that of a shell for it."""
        self.ended_by = number
        if number == signal.SIGHUP:
            # Textual waits for the writes of its thread, and nobody takes what is written to a terminal that is gone.
            threading.Thread(target=_end_anyway, args=(128 + number,), daemon=True).start()


def _end_anyway(code: int) -> None:
    time.sleep(GONE_S)
    os._exit(code)
