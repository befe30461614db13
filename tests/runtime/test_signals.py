"""Signals that wake a daemon's poll. Each test has an interpreter of its own, since handlers are the process's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WATCHING = """
import select
import sys
from pathlib import Path

from zpipe.runtime.signals import FOLDER_CHANGED, Signals

folder = Path(sys.argv[1])
signals = Signals()
signals.watch_folder(folder)
assert signals.read() == []
(folder / "new").mkdir()
assert select.select([signals.fd], [], [], 30)[0]
assert signals.read() == [FOLDER_CHANGED]
signals.watch_folder(folder / "absent")
"""


def test_poll_is_woken_when_something_is_made_in_a_folder(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", WATCHING, tmp_path], check=True)


OF_A_PLUGIN = """
import os
import signal

from zpipe.runtime.signals import Signals

signals = Signals()
for number in (signal.SIGUSR1, signal.SIGRTMIN + 3):
    signal.signal(number, lambda *_: None)
    os.kill(os.getpid(), number)
os.kill(os.getpid(), signal.SIGTERM)
assert signals.read() == [signal.SIGTERM]
"""


def test_a_signal_that_a_plugin_handles_stops_nothing() -> None:
    subprocess.run([sys.executable, "-c", OF_A_PLUGIN], check=True)
