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
