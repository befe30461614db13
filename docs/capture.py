"""Runs a pipeline for half a minute, and puts what `zpipe monitor` shows of it into the README and into docs/monitor.svg.

Call it by `make screen`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from zpipe.config import load
from zpipe.monitor.export.recording import Recording
from zpipe.monitor.screen.controls import Controls
from zpipe.monitor.screen.recording_player import Tape
from zpipe.monitor.screen.screen import Shown, Size, clock, screen
from zpipe.monitor.table.columns import plain

ROOT = Path(__file__).parents[1]
SIZE = Size(100, 24)
SECONDS = 30.0
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
        watching.send_signal(signal.SIGINT)
        watching.wait()
        for _ in range(2):
            run.send_signal(signal.SIGINT)
            time.sleep(1.0)
        run.wait()
        config = load(home / "p.toml", only="")
        tape = Tape(Recording(home / "r.gz", "index"), config)
        tape.move(float("inf"))
    shown = Shown(tape.value, tape.history, tape.events.recent, clock(tape.at))
    lines = screen(shown, Controls(selected="parse"), SIZE)
    console = Console(width=SIZE.width, record=True, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    for line in lines:
        console.print(Text.assemble(*line, no_wrap=True, overflow="crop"))
    (ROOT / "docs" / "monitor.svg").write_text(console.export_svg(title="zpipe monitor index.toml"))
    text = "\n".join(plain(line) for line in lines)
    readme = ROOT / "README.md"
    block = f"<!-- screen: make screen -->\n```text\n{text}\n```\n"
    readme.write_text(
        re.sub(r"<!-- screen: make screen -->\n```text\n.*?```\n", lambda _: block, readme.read_text(), flags=re.S)
    )


if __name__ == "__main__":
    main()
