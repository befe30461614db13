"""The stages of examples/node and examples/c: they keep every case of level 1, and a pipeline of Python, Node and C loses nothing
when its processes are killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pipeline import Command, Pipeline, send, wait_until

from zpipe.conform import report
from zpipe.conform.verdicts import Kind

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIG = """
[pipeline]
name = "mixed"

[telemetry]
interval = "500ms"

[stages.read]
plugin = "generate"
options = {{ rate = {rate} }}

[stages.pass]
input = "read"
command = ["node", "{folder}/map.js"]
instances = 2

[stages.shout]
input = "pass"
command = ["{folder}/map"]
instances = 2

[stages.store]
input = "shout"
plugin = "sqlite"
batch = {{ messages = 200, timeout = "100ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""
BAD = 1000
"""Of so many messages, the map in Node fails one."""
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stages of both examples."""
    folder = tmp_path_factory.mktemp("foreign")
    for file in (EXAMPLES / "node").glob("*.js*"):
        shutil.copy(file, folder)
    commands = (["npm", "install", "--silent"], ["make", "-C", str(EXAMPLES / "c"), f"OUT={folder}"])
    for command in commands:
        lacks = shutil.which(command[0]) is None
        done = None if lacks else subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        if done is None or done.returncode != 0:
            reason = f"{' '.join(command)}: {'not installed' if done is None else done.stderr[-300:]}"
            pytest.fail(reason) if os.environ.get("ZPIPE_TEST_SERVICES") == "1" else pytest.skip(reason)
    return folder


def program(folder: Path, language: str, kind: Kind) -> list[str]:
    return ["node", str(folder / f"{kind}.js")] if language == "node" else [str(folder / kind)]


@pytest.mark.parametrize("kind", ["map", "sink"])
@pytest.mark.parametrize("language", ["node", "c"])
def test_they_keep_level_1(built: Path, language: str, kind: Kind) -> None:
    results = report.run(program(built, language, kind), kind, report.chosen(kind, 1, []), jobs=8)
    assert [one for one in results if one.outcome == "not kept"] == []
    assert report.level_reached(results) == 1


def test_they_are_small() -> None:
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in (EXAMPLES / "node").glob("*.js")}
    assert lines["map.js"] <= 140 and lines["sink.js"] <= 40 and lines["stage.js"] + lines["snapshot.js"] <= 200


def kill_somebody(pipeline: Pipeline, chance: random.Random, names: list[tuple[str, int]]) -> tuple[str, int]:
    """`kill -9` of the next of `names`, which is refilled with all instances: of a program in most cases, else of its keeper."""
    if not names:
        every = [
            (one.name, number) for one in pipeline.config.stages.values() for number in range(1, one.instances + 1)
        ]
        names += chance.sample(every, len(every))
    stage, instance = name = names.pop()
    of_program = bool(pipeline.config.stages[stage].command) and chance.random() < 0.7

    def running() -> int | None:
        pid = pipeline.pid_at_work(stage, instance)
        if pid is None or not of_program:
            return pid
        with suppress(OSError):  # a keeper that is about to end
            return next(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()), None)
        return None

    send(wait_until(running, f"{stage}.{instance} runs"), signal.SIGKILL)  # type: ignore[arg-type]
    return name


def figures(pipeline: Pipeline, run: Command) -> dict[str, Any]:
    """What the monitor shows of all, once every figure of the foreign stages is known."""

    def shown() -> dict[str, Any] | None:
        assert run.running, run.stderr[-3000:]
        done = pipeline.zpipe("monitor", str(pipeline.path), "--once", "--json", "--timeout", "20")
        value: dict[str, Any] = json.loads(done.stdout) if done.wait() == 0 else {}
        stages = [value["stages"][name] for name in ("pass", "shout")] if value else []
        links = [one for one in value.get("links", ()) if one["from"] != "shout"]
        complete = all(one["state"] == "RUNNING" and one["rate_in"] and one["rate_out"] for one in stages)
        return value if stages and complete and all(one["rate"] and one["credit"] for one in links) else None

    return wait_until(shown, "rates and credit of the foreign stages are shown", 120)  # type: ignore[return-value]


def lose_nothing(make: Callable[..., Pipeline], folder: Path, kills: int, rate: int, step: int, seed: int) -> None:
    """Kills somebody each time that `step` more messages are stored; then drains."""
    pipeline = make(CONFIG.format(rate=rate, folder=folder))
    source = (folder / "map.js").read_text()
    failing = f'(payload) => {{ if (payload.id % {BAD} === 7) throw new Error("seven"); return payload; }}'
    (folder / "map.js").write_text(source.replace("const work = (payload) => payload", f"const work = {failing}"))
    try:
        run = pipeline.run()
        chance, names = random.Random(seed), list[tuple[str, int]]()
        killed = set()
        for kill in range(1, kills + 1):
            wait_until(lambda kill=kill: pipeline.count() >= kill * step, f"{kill * step} rows", 120)  # type: ignore[misc]
            killed.add(kill_somebody(pipeline, chance, names))
        assert len(killed) == 6, "all instances were killed"
        shown = figures(pipeline, run)
        goal = pipeline.count() + step
        wait_until(lambda: pipeline.count() >= goal, "it goes on after the last kill", 120)
        drain = pipeline.zpipe("drain", str(pipeline.path), "--json", "--timeout", "120")
        ledger = drain.ledger(180)
        assert run.ledger(60)["balanced"]
    finally:
        (folder / "map.js").write_text(source)
    last = pipeline.position("read")
    bad = [n for n in range(last + 1) if n % BAD == 7]
    good = last + 1 - len(bad)
    assert pipeline.query("SELECT count(*), min(id), max(id) FROM t") == [
        (good, 0, max(set(range(last + 1)) - set(bad)))
    ]
    letters = {letter[0] for number in (1, 2) for letter in pipeline.letters("pass", number)}
    assert letters == {f"read:{n}" for n in bad}
    assert ledger["stages"]["store"]["completed"] > 0 and bad
    for name in ("pass", "shout"):
        stage = shown["stages"][name]
        assert stage["received"] == stage["completed"] + stage["dead"] > 0
        assert len(stage["instances"]) == 2
    for link in shown["links"][:2]:
        assert link["depth"] is not None and link["bound"] > 0


def test_a_mixed_pipeline_loses_nothing_under_some_kills(make: Callable[..., Pipeline], built: Path) -> None:
    lose_nothing(make, built, kills=6, rate=1000, step=600, seed=3)


@pytest.mark.stress
def test_a_mixed_pipeline_loses_nothing_under_100_kills(make: Callable[..., Pipeline], built: Path) -> None:
    lose_nothing(make, built, kills=100, rate=1000, step=600, seed=7)
