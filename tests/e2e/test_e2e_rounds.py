"""Random schedules of kill, stop, start, restart and drain over five stages: never a loss, never a hang.

Each instance is a `zpipe stage` of its own, started and stopped as an operator or systemd would. A round is some random
actions on a running pipeline, then a drain that must end with exit code 0. What the source has committed is in the sink,
each id once; the next round goes on from there.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
from contextlib import closing

import pytest
from e2e_types import MakePipeline
from pipeline import Command, Pipeline, send, wait_until

from zpipe.core.wire import cbor

CONFIG = """
[pipeline]
name = "rounds"
peer_timeout = "2s"

[telemetry]
interval = "200ms"

[stages.read]
plugin = "generate"
options = { rate = 3000 }

[stages.work]
input = "read"
plugin = "python"
instances = 2
options = { function = "work.py:work" }

[stages.gather]
input = "work"
plugin = "python"
batch = { messages = 50, timeout = "10m" }
options = { function = "work.py:gather" }

[stages.spread]
input = "gather"
plugin = "python"
instances = 2
workers = { count = 2 }
options = { function = "work.py:work" }

[stages.store]
input = "spread"
plugin = "sqlite"
batch = { messages = 200, timeout = "10m" }
options = { path = "out.db", table = "t", key = "id" }
"""
WORK = """
def work(payload):
    return payload


def gather(payloads):
    return payloads
"""
STOP_S = 5.0
"""What a service manager's stop timeout is: after it, a stage that has not left is killed, and nothing may be lost."""
NAMES = [("read", 1), ("work", 1), ("work", 2), ("gather", 1), ("spread", 1), ("spread", 2), ("store", 1)]


class Units:
    """The instances of the pipeline, each restarted if it dies, as a service manager would; no order is kept."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.wanted: dict[tuple[str, int], Command | None] = dict.fromkeys(NAMES)

    def start(self, name: tuple[str, int]) -> None:
        command = self.wanted[name]
        if command is None or not command.running:
            self.wanted[name] = self.pipeline.stage(*name)

    def start_all(self) -> None:
        for name in NAMES:
            self.start(name)

    def stop(self, name: tuple[str, int]) -> None:
        """SIGTERM: it leaves. In its own time: the round goes on meanwhile."""
        command = self.wanted[name]
        if command is not None and command.running:
            send(command.pid, signal.SIGTERM)

    def kill(self, name: tuple[str, int]) -> None:
        command = self.wanted[name]
        if command is not None and command.running:
            send(command.pid, signal.SIGKILL)
            command.wait()
            self.start(name)

    def restart(self, name: tuple[str, int]) -> None:
        """Stops it and starts it again. One that cannot leave, since acks need a stage that is stopped, is killed."""
        self.stop(name)
        command = self.wanted[name]
        if command is not None and not command.over_within(STOP_S):
            send(command.pid, signal.SIGKILL)
            command.wait()
        self.start(name)


def play(pipeline: Pipeline, chance: random.Random, rounds: int) -> None:
    units = Units(pipeline)
    stored = 0
    for number in range(rounds):
        units.start_all()
        wait_until(lambda least=stored: pipeline.count() > least, f"round {number}: something more is stored")
        for _ in range(chance.randrange(2, 7)):
            action = chance.choice([units.kill, units.kill, units.restart, units.stop])
            action(chance.choice(NAMES))
            units.wanted[NAMES[0]].over_within(chance.uniform(0.0, 0.3))  # type: ignore[union-attr]
        for name in NAMES:  # what was stopped by chance is started again: a drain needs every stage
            command = units.wanted[name]
            assert command is not None
            if command.running and name in units.pipeline.instances():
                continue
            units.start(name)
        stored = drain(pipeline, units, number)


def drain(pipeline: Pipeline, units: Units, number: int) -> int:
    """Ends the round in order. Returns how many ids are stored."""
    command = pipeline.zpipe("drain", str(pipeline.path), "--json", "--timeout", "60")
    while not command.over_within(0.2):
        for name, instance in units.wanted.items():  # one that was leaving when the drain began is needed once more
            over = instance is not None and not instance.running
            if over and not pipeline.has_ended(*name):
                units.start(name)
    assert command.process.returncode == 0, f"round {number}:\n{command.stdout}\n{command.stderr[-4000:]}"
    assert json.loads(command.stdout.splitlines()[-1])["balanced"]
    for name, instance in units.wanted.items():
        assert instance is not None
        if not pipeline.has_ended(*name):
            units.stop(name)  # it came too late for this drain and waits for the next stream
        assert instance.over_within(30), f"round {number}: {name} still runs:\n{instance.stderr[-3000:]}"
    stored, distinct = pipeline.query("select count(*), count(distinct id) from t")[0]
    assert stored == distinct
    last = committed(pipeline)
    kept = pipeline.query(f"select count(*) from t where id <= {last}")[0][0]
    assert kept == last + 1, f"round {number}: {last + 1 - kept} of the first {last + 1} ids are lost"
    return int(stored)


def committed(pipeline: Pipeline) -> int:
    """The source's position: everything up to it was acked by the sink. -1 if there is none."""
    database = pipeline.home / "s" / f"{pipeline.config.name}.read.1" / "state.db"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
        row = connection.execute("select position from position").fetchone()
    return -1 if row is None or cbor.read(row[0]) is None else int(cbor.read(row[0]))


def test_a_few_rounds(make: MakePipeline) -> None:
    play(make(CONFIG, work=WORK), random.Random(1), rounds=3)


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(4))
def test_hundreds_of_rounds(make: MakePipeline, seed: int) -> None:
    play(make(CONFIG, work=WORK), random.Random(100 + seed), rounds=50)
