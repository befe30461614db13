"""Another user of the machine attacks a pipeline whose addresses are on loopback: nothing is lost, and the log names it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from e2e_types import MakePipeline
from pipeline import Pipeline, ids, wait_until
from ports import free_ports

COUNT = 20_000
CONFIG = """
[pipeline]
name = "p"

[security]
insecure = true

[stages.read]
plugin = "generate"
listen = "tcp://127.0.0.1:{0}"
options = {{ count = {count}, rate = 1000 }}

[stages.work]
input = "read"
plugin = "python"
instances = 2
listen = ["tcp://127.0.0.1:{1}", "tcp://127.0.0.1:{2}"]
options = {{ function = "work.py:work" }}

[stages.store]
input = "work"
plugin = "sqlite"
listen = "tcp://127.0.0.1:{3}"
batch = {{ messages = 100, timeout = "50ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""
WORK = "def work(payload):\n    return payload\n"
NAMES = ("read.1", "work.1", "work.2", "store.1")
LINKS = (("read.1", "work.1"), ("read.1", "work.2"), ("work.1", "store.1"), ("work.2", "store.1"))
ATTACK_S = 120
DESCRIPTORS = 50
"""More than the sound of 12 raw connections to one instance, and far fewer than of 3,000 sessions."""


def listening(pid: int) -> set[int]:
    """The tcp ports that the process listens at."""
    links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A" and row[9] in inodes}


def descriptors(pipeline: Pipeline) -> dict[str, int]:
    instances = pipeline.instances().items()
    return {f"{stage}.{n}": len(os.listdir(f"/proc/{pid}/fd")) for (stage, n), pid in instances}


def attack(pipeline: Pipeline, ports: list[int]) -> dict[str, Any]:
    feedback = dict(zip(NAMES, ports, strict=True))
    control = {name: port + 1 for name, port in feedback.items()}
    known = {*feedback.values(), *control.values()}
    inboxes = sorted(port for pid in pipeline.instances().values() for port in listening(pid) - known)
    plan = json.dumps({"feedback": feedback, "control": control, "inboxes": inboxes, "links": LINKS})
    forger = Path(__file__).with_name("forger.py")
    done = subprocess.run([sys.executable, str(forger), plan], capture_output=True, text=True, timeout=ATTACK_S)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.needs("root")
def test_a_forger_loses_nothing_and_is_named(make: MakePipeline) -> None:
    ports = free_ports(4)
    pipeline = make(CONFIG.format(*ports, count=COUNT), work=WORK)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() or not run.running, "the first rows are stored")
    before = descriptors(pipeline)
    report = attack(pipeline, ports)
    after = descriptors(pipeline)
    assert run.running and pipeline.count() < COUNT, f"the run ended before the attack:\n{run.stderr[-4000:]}"
    ledger = run.ledger()

    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(COUNT))
    for name, row in ledger["stages"].items():
        assert (row["redelivered"], row["duplicates"], row["restarts"], row["dead"]) == (0, 0, 0, 0), (name, row)

    answers = report["answers"]
    assert report["uid"] == 65534 and report["caught"] == 0
    assert not [kind for kind in answers if kind.startswith(("welcome", "confirm"))], answers
    assert answers["refuse: in session by another connection"] == len(LINKS) * 42
    assert answers["refuse: inbox"] == len(LINKS) * 5
    assert answers["refuse: `listen` of stage"] == 3000
    assert answers["refuse: no such session"] == 3 * 300
    assert answers["done: "] == 2, "pause and resume are obeyed: that is what `insecure` means"
    assert answers["refuse: head"] == answers["refuse: no such request"] == 1
    for name, count in after.items():
        assert count < before[name] + DESCRIPTORS, (name, before, after)

    log = run.stderr.splitlines()
    for name in ("work.1", "work.2", "store.1"):
        taken = f"event=hello.refused sender=127.0.0.1 consumer={name} "
        assert any(taken in line and "in session by another connection" in line for line in log), run.stderr
    for what in ("pause", "resume", "drain", "obey"):
        assert any(f"event=operator.request what={what} sender=127.0.0.1 " in line for line in log), run.stderr
    assert any("event=peer.malformed socket=feedback" in line and "sender=127.0.0.1" in line for line in log), (
        run.stderr
    )
    assert any("event=peer.malformed socket=inbox" in line and "sender=127.0.0.1" in line for line in log), run.stderr
    assert len(log) < 1000, "thousands of frames are not thousands of lines"
