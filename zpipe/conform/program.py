"""The program under test: started as `zpipe run` starts a stage in another language, stopped, killed, woken.

What belongs to its process belongs here, also what it writes to stderr. Must not live here: the protocol.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

TAIL_BYTES = 4000
_GONE_S = 10


class Program:
    """One life of it. Its own group of processes, so that what it starts ends with it."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], errors: Path) -> None:
        """Raises OSError where the command cannot be started."""
        self._errors = errors
        with errors.open("ab") as stderr:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs; the negative signal if one ended it."""
        return self._process.poll()

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to all of it. Waits for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(_GONE_S)

    def last_words(self) -> str:
        """The end of what it wrote to stderr and stdout."""
        with contextlib.suppress(OSError), self._errors.open("rb") as file:
            file.seek(max(0, self._errors.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
        return ""
