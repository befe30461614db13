"""`exec` in real daemons: programs and daemons are killed, hang and print garbage, and every message comes out once."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import needs
import pytest
from e2e_types import MakePipeline
from pipeline import Pipeline, send, wait_until

JQ = '["jq", "-c", "--unbuffered", ".payload.jq = .payload.id * 2"]'
NODE = """
const lines = require('node:readline').createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const m = JSON.parse(line);
  m.payload.node = m.payload.id * 5;
  process.stdout.write(JSON.stringify(m) + '\\n');
});
"""
PIPELINE = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = {{ count = {count}, rate = {rate} }}

[stages.jq]
input = "read"
plugin = "exec"
workers = {{ count = 2 }}
options = {{ command = {jq} }}

[stages.awk]
input = "jq"
plugin = "exec"
batch = {{ messages = 500, timeout = "50ms" }}
options = {{ command = ["awk", "-f", "add.awk"], mode = "filter" }}

[stages.node]
input = "awk"
plugin = "exec"
options = {{ command = ["node", "add.js"] }}

[stages.store]
input = "node"
plugin = "sqlite"
batch = {{ messages = 500, timeout = "50ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""
AWK = """{ match($0, /"id":[0-9]+/); id = substr($0, RSTART + 5, RLENGTH - 5); sub(/}$/, ",\\"awk\\":" id * 3 "}"); print }"""


def programs(pipeline: Pipeline) -> list[int]:
    """The programs that the pipeline's daemons have started."""
    daemons = set(pipeline.instances().values())
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent in daemons:
                found.append(int(entry.name))
    return found


def kill_often(make: MakePipeline, count: int, rate: int, kills: int) -> None:
    """Kills programs and daemons in turns; each message must be stored once, with what each program has added."""
    needs.skip_without("jq", "awk", "node")
    pipeline = make(PIPELINE.format(count=count, rate=rate, jq=JQ))
    (pipeline.folder / "add.js").write_text(NODE)
    (pipeline.folder / "add.awk").write_text(AWK)
    run = pipeline.run()
    chance = random.Random(14)
    for killed in range(kills):
        # By what is stored, not by time: there is work left, however fast or slow the machine is.
        due = count * (killed + 1) // (kills + 2)
        wait_until(lambda due=due: pipeline.count() >= due or not run.running, f"{due} rows are stored")
        of_daemons = killed % 5 == 4
        victims = wait_until(
            lambda d=of_daemons: sorted(pipeline.instances().values()) if d else programs(pipeline), "one runs"
        )
        assert run.running, f"the run ended after {killed} kills: {run.stderr[-2000:]}"
        send(chance.choice(victims), signal.SIGKILL)
    run.ledger(deadline_s=60 + count / 500)
    assert pipeline.query("SELECT count(*), min(id), max(id) FROM t") == [(count, 0, count - 1)]
    assert pipeline.query("SELECT count(*) FROM t WHERE jq != 2 * id OR awk != 3 * id OR node != 5 * id") == [(0,)]
    wait_until(lambda: not programs(pipeline), "no program is left")


def test_programs_and_daemons_are_killed_and_each_message_is_stored_once(make: MakePipeline) -> None:
    kill_often(make, count=2000, rate=1000, kills=5)


@pytest.mark.stress
def test_fifty_kills_of_programs_and_daemons(make: MakePipeline) -> None:
    kill_often(make, count=100_000, rate=4000, kills=50)


ODD = """
import json, os, sys, time
for line in sys.stdin:
    m = json.loads(line)
    n = m["payload"]["id"]
    if n % 100 == 20:
        print("what is this", flush=True)
    elif n == 40:
        time.sleep(600)
    elif n % 100 == 60:
        os._exit(9)
    else:
        if n % 100 == 80:
            sys.stderr.write("flood\\n" * 20_000)
        print(json.dumps(m), flush=True)
"""


def test_a_program_that_goes_wrong_in_every_way_costs_only_the_messages_it_goes_wrong_with(make: MakePipeline) -> None:
    pipeline = make(
        """
[pipeline]
name = "p"
[stages.read]
plugin = "generate"
options = { count = 200 }
[stages.odd]
input = "read"
plugin = "exec"
workers = { count = 2 }
retry = { attempts = 2, delay = "10ms" }
options = { command = ["python3", "-S", "odd.py"], timeout = 2.0 }
[stages.store]
input = "odd"
plugin = "sqlite"
options = { path = "out.db", table = "t", key = "id" }
batch = { messages = 100, timeout = "50ms" }
""",
        odd=ODD,
    )
    run = pipeline.run()
    assert run.wait() == os.EX_OK, run.stderr[-2000:]
    letters = {id: reason for id, reason, _, _, _ in pipeline.letters("odd")}
    assert set(letters) == {f"read:{n}" for n in (20, 40, 60, 120, 160)}
    assert "wrote what cannot be read: 'what is this'" in letters["read:20"]
    assert "wrote no line within 2 s" in letters["read:40"]
    assert "ended with exit code 9" in letters["read:60"]
    assert pipeline.count() == 195
    assert run.stderr.count("flood") < 200 and "more lines of stderr, which are not logged" in run.stderr
