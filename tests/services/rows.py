"""What is asked of every plugin that reaches a service, through real daemons and the real service.

`run_with_kills` is for its promise, `run_without_service` for a service that goes away, `fails_saying` for what a person has to
put right, and `Comparison` for what it costs. Must not live here: anything about a certain service.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline import Command, Pipeline, send, wait_until
from server import Server

from zpipe.core.wire import cbor

MESSAGES = int(os.environ.get("ZPIPE_TEST_MESSAGES", "50_000"))
"""That go through a row while it is killed. Where the service itself is slower, a row has fewer, and says so."""
KILLS = 10
"""`kill -9` of random stages of a row."""
PACE = 6000
"""Messages a second that should pass while stages are killed, so that the run outlasts its kills: `rate` of `generate`, and where
the source has no such option `limit.rate` of a stage after it (which counts batches)."""
DEADLINE_S = 110.0
GOAL = 0.7
"""Of the throughput of a plain script, at least."""
PAIRS = 3
"""So often is measured at most: other work on the machine may spoil a pair."""

Progress = Callable[[], int | None]
"""How many messages have got through so far. It is asked fifty times a second."""


def committed(pipeline: Pipeline, stage: str) -> Progress:
    """The position that a source like `generate`, whose positions are numbers, has committed.

    The state file is opened once a run. To open it for each look took 1 ms fifty times a second, of the processors that are
    measured.
    """
    path = pipeline.home / "s" / f"{pipeline.config.name}.{stage}.1" / "state.db"
    opened: dict[int, sqlite3.Connection] = {}  # by the number of the file, which no other has while it is open

    def close() -> None:
        while opened:
            opened.popitem()[1].close()

    def position() -> int | None:
        try:
            number = path.stat().st_ino
            if number not in opened:
                close()
                opened[number] = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
                pipeline.held.callback(close)
            rows = opened[number].execute("SELECT position FROM position").fetchall()
        except (FileNotFoundError, sqlite3.OperationalError):
            return None  # it has none yet
        return cbor.read(rows[0][0]) + 1 if rows and rows[0][0] is not None else None

    return position


def run_with_kills(
    pipeline: Pipeline,
    progress: Progress,
    messages: int = MESSAGES,
    kills: int = KILLS,
    seed: int = 1,
    server: Server | None = None,
) -> dict[str, Any]:
    """Runs the pipeline, and kills its stages at random points of its progress, each of them before any a second time, and those
    that have ended before the others no more. With `server`, that is killed, too, once in the middle, and started again. Returns
    the ledger: it balances, and nothing is a dead letter."""
    chance = random.Random(seed)
    stages = list(pipeline.config.stages)
    points = sorted(chance.sample(range(messages // 50, messages * 4 // 5), kills))
    run = pipeline.run()
    turn: list[str] = []
    killed, gone = set(), set[int]()

    def to_kill(stage: str) -> int | bool | None:
        """True if there is nothing left to kill. A process that was killed holds its lock until it is gone."""
        if pipeline.has_ended(stage):
            return True
        pid = pipeline.pid_at_work(stage)
        return None if pid in gone else pid

    for number, point in enumerate(points):
        wait_for_progress(run, progress, point)
        while True:
            turn = turn or chance.sample(stages, len(stages))
            stage = turn.pop()
            pid = wait_until(partial(to_kill, stage), f"{stage} runs")
            if pid is not None and pid is not True:
                break
        send(pid, signal.SIGKILL)
        gone.add(pid)
        killed.add(stage)
        if server is not None and number == kills // 2:
            server.kill()
            server.start()
    assert killed == set(stages), "each of them was killed"
    ledger = run.ledger(DEADLINE_S)
    restarts = sum(row["restarts"] for row in ledger["stages"].values())
    assert restarts == kills, ledger
    assert not any(row["dead"] for row in ledger["stages"].values()), f"{ledger}\n{run.stderr[-4000:]}"
    return ledger


def run_without_service(
    pipeline: Pipeline, stage: str, server: Server, progress: Progress, after: int, *words: str
) -> dict[str, Any]:
    """Runs the pipeline. After so many messages the service is killed; the stage waits and says so, in these words; the service
    comes back, and the run ends well: no stage has died, and there are no dead letters."""
    run = pipeline.run()
    wait_for_progress(run, progress, after)
    server.kill()
    said = waits_saying(pipeline, run, stage, *words)
    assert run.running, run.stderr
    server.start()
    ledger = run.ledger(DEADLINE_S)
    assert all(row["restarts"] == row["dead"] == 0 for row in ledger["stages"].values()), (said, ledger, run.stderr)
    return ledger


def wait_for_progress(run: Command, progress: Progress, least: int) -> None:
    def enough() -> bool:
        ill = not run.running or "event=message.dead" in run.stderr
        assert not ill, f"before message {least}:\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
        return (progress() or 0) >= least

    try:
        wait_until(enough, f"{least} messages got through", DEADLINE_S)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{run.stderr[-4000:]}\n{run.holdings()}") from None


def waits_saying(pipeline: Pipeline, run: Command, stage: str, *words: str) -> str:
    """Waits until a snapshot of the stage says that it is held up, in these words. Its log says that it waits, too, perhaps in
    those of the first try. What it says."""

    def said() -> str:
        assert run.running, run.stderr[-4000:]
        for snapshot in watch.poll(0.1):
            if snapshot["stage"] == stage and all(word in (snapshot.get("held_by") or "") for word in words):
                return str(snapshot["held_by"])
        return ""

    with pipeline.watch() as watch:
        found = wait_until(said, f"{stage} says that it waits: {words}")
    wait_until(lambda: f" {stage}.1 event=" in run.stderr and ".waits reason=" in run.stderr, "the log says so")
    return found


def fails_saying(pipeline: Pipeline, *words: str) -> str:
    """Runs the pipeline. It has to end with 1 and say these words, without a traceback. What it logged."""
    run = pipeline.run()
    assert run.wait(DEADLINE_S) == 1, run.stderr
    for word in words:
        assert word in run.stderr, run.stderr
    assert "Traceback" not in run.stderr, run.stderr
    return run.stderr


def check_says(pipeline: Pipeline, code: int, *words: str) -> str:
    """`zpipe check` of the pipeline ends with this code and says these words."""
    done = pipeline.zpipe("check", str(pipeline.path))
    assert done.wait() == code, done.stderr + done.stdout
    said = done.stderr + done.stdout
    for word in words:
        assert word in said, said
    return said


def rate_of_run(pipeline: Pipeline, progress: Progress, messages: int) -> float:
    """Messages a second of a run, between the first and the last that got through, so without the start and the end of its
    processes. It forgets the positions of runs before; what they stored is the caller's to remove."""
    shutil.rmtree(pipeline.home / "s", ignore_errors=True)
    run = pipeline.run()
    done = wait_until(progress, "the first messages got through", DEADLINE_S)
    began = time.monotonic()
    wait_until(lambda: (progress() or 0) >= messages, "all messages got through", DEADLINE_S)
    took = time.monotonic() - began
    run.ledger(DEADLINE_S)
    return (messages - int(done or 0)) / took


class Comparison:
    """Messages a second of a pipeline, and of a plain script that does the same with the same library, measured in turns. The
    best of a few pairs counts.

    ours, plain  each does all the work once, and returns messages a second
    """

    def __init__(self, what: str, ours: Callable[[], float], plain: Callable[[], float]) -> None:
        self.what = what
        self.pairs: list[tuple[float, float]] = []
        while len(self.pairs) < PAIRS and self.ratio < GOAL:
            self.pairs.append((ours(), plain()))

    @property
    def ratio(self) -> float:
        return max((ours / plain for ours, plain in self.pairs), default=0.0)

    def __str__(self) -> str:
        ours, plain = max(self.pairs, key=lambda pair: pair[0] / pair[1])
        return f"{self.what}: {ours:,.0f}/s, plain {plain:,.0f}/s, {self.ratio:.2f} x ({len(self.pairs)} measured)"

    def check(self) -> None:
        assert self.ratio >= GOAL, str(self)
