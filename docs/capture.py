"""Runs a pipeline for a minute, and draws what `zpipe monitor` shows of it: the pictures of the README and of docs/monitor.md.

Call it by `make screen`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from zpipe.cli.operating.screen_operator import ScreenOperator
from zpipe.config import load
from zpipe.monitor.export.recording import Recording
from zpipe.monitor.export.tape import Tape
from zpipe.monitor.screen.app import MonitorApp
from zpipe.monitor.screen.source import RecordedPipeline

ROOT = Path(__file__).parents[1]
SECONDS = 60.0
STEP_S = 20.0
PICTURES: tuple[tuple[str, tuple[int, int], str], ...] = (
    ("monitor", (120, 36), ""),
    ("monitor-table", (120, 24), "2"),
    ("monitor-stage", (120, 24), "down 3"),
    ("monitor-links", (120, 36), "4"),
    ("monitor-letters", (120, 20), "5 down enter"),
    ("monitor-events", (120, 16), "6"),
    ("monitor-wide", (200, 50), ""),
)
"""Name, size and keys of each."""
CONFIG = """
[pipeline]
name = "index"
[stages.read]
plugin = "generate"
options = { rate = 300 }
[stages.parse]
input = "read"
plugin = "python"
options = { function = "work.py:parse" }
[stages.check]
input = "parse"
plugin = "python"
instances = 2
retry = { attempts = 2, delay = "200ms" }
options = { function = "work.py:check" }
[stages.enrich]
input = "check"
plugin = "python"
options = { function = "work.py:enrich" }
[stages.store]
input = "enrich"
plugin = "sqlite"
batch = { messages = 200, timeout = "1s" }
options = { path = "out.db", table = "t", key = "id" }
[stages.audit]
input = ["enrich", "read"]
plugin = "discard"
"""
WORK = """
import time


def parse(payload):
    time.sleep(0.01)
    return payload


def check(payload):
    if payload["id"] % 500 == 7:
        raise ValueError("a bad record")
    return payload


def enrich(payload):
    time.sleep(0.001)
    return payload
"""


class Still(RecordedPipeline):
    """The end of a recording, shown as if it were now: without a time line."""

    @property
    def replay(self) -> None:
        return None

    def turn(self) -> tuple[float, bool]:
        return 3600.0, False


async def draw(tape: Tape, app: MonitorApp, name: str, size: tuple[int, int], keys: Sequence[str]) -> None:
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        for key in keys:
            await pilot.press(key)
            await app.workers.wait_for_complete()
            await pilot.pause()
        (ROOT / "docs" / f"{name}.svg").write_text(app.export_screenshot(title=f"zpipe monitor {app.pipeline.name}"))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="zp-") as folder:
        home = Path(folder)
        (home / "p.toml").write_text(CONFIG)
        (home / "work.py").write_text(WORK)
        env = {**os.environ, "ZPIPE_RUNTIME_DIR": f"{home}/r", "ZPIPE_STATE_DIR": f"{home}/s"}
        zpipe = [sys.executable, "-m", "zpipe"]
        run = subprocess.Popen(
            [*zpipe, "run", f"{home}/p.toml"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        record = [*zpipe, "monitor", f"{home}/p.toml", "--json", "--record", f"{home}/r.gz", "--timeout", "60"]
        watching = subprocess.Popen(record, env=env, stdout=subprocess.DEVNULL)
        time.sleep(SECONDS)
        watching.terminate()
        watching.wait()
        for _ in range(2):
            run.send_signal(signal.SIGTERM)
            time.sleep(1.0)
        run.wait()
        config = load(home / "p.toml", only="")
        tape = Tape(Recording(home / "r.gz", "index"), config)
        recording = tape.recording
        while tape.at < recording.ended:  # in steps, so that the plots have all of it
            tape.move(tape.at + STEP_S)
        for name, size, keys in PICTURES:
            app = MonitorApp(Still(tape), config, ScreenOperator(config, env))
            asyncio.run(draw(tape, app, name, size, keys.split()))


if __name__ == "__main__":
    main()
