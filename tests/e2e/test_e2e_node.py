"""The stages of examples/node: they keep level 1, and a pipeline of Python and Node loses nothing when its processes are killed.

They need npm and its registry, so they are among the stress tests (`make stress`).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from e2e_types import MakePipeline
from pipeline import wait_until

from zpipe.conform import report
from zpipe.conform.verdicts import Kind

pytestmark = pytest.mark.stress
NODE = Path(__file__).parents[2] / "examples" / "node"
KILLS, MESSAGES = 100, 60_000

CONFIG = """
[pipeline]
name = "mixed"

[stages.read]
plugin = "generate"
options = {{ count = {count}, rate = {rate} }}

[stages.pass]
input = "read"
command = ["node", "{folder}/map.js"]

[stages.store]
input = "pass"
plugin = "sqlite"
options = {{ path = "out.db", table = "t", key = "id" }}
batch = {{ messages = 200, timeout = "100ms" }}
"""


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples with their packages."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    for file in NODE.glob("*.js*"):
        shutil.copy(file, folder)
    done = subprocess.run(["npm", "install", "--silent"], cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        pytest.skip(f"npm install failed: {done.stderr[-200:]}")
    return folder


@pytest.mark.parametrize(("kind", "file"), [("map", "map.js"), ("sink", "sink.js")])
def test_they_keep_level_1(node: Path, kind: Kind, file: str) -> None:
    results = report.run(["node", str(node / file)], kind, report.chosen(kind, 1, []), jobs=8)
    assert [one for one in results if one.outcome == "not kept"] == []


def test_they_are_small() -> None:
    lines = {
        name: len((NODE / name).read_text(encoding="utf-8").splitlines()) for name in ("map.js", "sink.js", "stage.js")
    }
    assert lines["map.js"] <= 120 and lines["sink.js"] <= 40 and lines["stage.js"] <= 170


@pytest.mark.timeout(900)
def test_python_and_node_lose_nothing_under_kills(make: MakePipeline, node: Path) -> None:
    pipeline = make(CONFIG.format(count=MESSAGES, rate=1000, folder=node))
    run = pipeline.run("--json")
    chance, step = random.Random(7), MESSAGES // (KILLS + 2)
    for kill in range(KILLS):
        wait_until(lambda kill=kill: pipeline.count() >= (kill + 1) * step, f"{(kill + 1) * step} rows", 120)  # type: ignore[misc]
        stage = chance.choice(["read", "pass", "pass", "store"])
        pid = pipeline.pid(stage)
        if stage == "pass" and chance.random() < 0.7:  # the program, and else its keeper
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            pid = int(children[0]) if children else pid
        os.kill(pid, signal.SIGKILL)
    ledger = run.ledger(300)
    assert json.dumps(ledger)
    assert pipeline.query("SELECT count(*), min(id), max(id) FROM t") == [(MESSAGES, 0, MESSAGES - 1)]
