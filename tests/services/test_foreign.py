"""The stages of examples/node and examples/c: they keep every case of level 1, those in Node within their lines, and neither a
pipeline of Python, Node and C nor one of level 1 in Node loses anything when its processes are killed."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import needs
import pytest
from pipeline import Command, Pipeline, send, wait_until

from zpipe.conform import report
from zpipe.conform.verdicts import Kind
from zpipe.errors import ExitCode
from zpipe.runtime import locks
from zpipe.runtime.places import Places

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
command = ["node", "{folder}/map-with-snapshots.js"]
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
LEVEL_1 = """
[pipeline]
name = "plain"

[stages.read]
plugin = "generate"
options = {{ rate = 1000 }}

[stages.pass]
input = "read"
command = ["node", "{folder}/map.js"]
instances = 2

[stages.keep]
input = "pass"
command = ["node", "{folder}/sink.js"]
options = {{ path = "kept.txt" }}
"""
BAD = 1000
"""Of so many messages, the map in Node fails one."""
pytestmark = [pytest.mark.timeout(900), pytest.mark.needs("node", "npm", "make", "gcc", "zmq.h", "cbor.h")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stages of both examples."""
    folder = tmp_path_factory.mktemp("foreign")
    for file in (EXAMPLES / "node").glob("*.js*"):
        shutil.copy(file, folder)
    npm = subprocess.run(["npm", "install", "--silent"], cwd=folder, capture_output=True, text=True, timeout=300)
    if npm.returncode != 0:
        needs.skip_for("package index", detail=f"npm install: {npm.stderr[-300:]}")
    make = ["make", "-C", str(EXAMPLES / "c"), f"OUT={folder}"]
    c = subprocess.run(make, capture_output=True, text=True, timeout=300, check=False)
    assert c.returncode == 0, c.stderr
    return folder


def program(folder: Path, name: str) -> list[str]:
    return ["node", str(folder / name)] if name.endswith(".js") else [str(folder / name)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("map.js", "map"), ("map-with-snapshots.js", "map"), ("sink.js", "sink"), ("map", "map"), ("sink", "sink")],
)
def test_they_keep_level_1(built: Path, name: str, kind: Kind) -> None:
    results = report.run(program(built, name), kind, report.chosen(kind, 1, []), jobs=8)
    assert [one for one in results if one.outcome == "not kept"] == []
    assert report.level_reached(results) == 1


def test_the_identities_hold_in_the_snapshots_of_node(built: Path) -> None:
    cases = report.chosen("map", 2, [38, 41])
    results = report.run(program(built, "map-with-snapshots.js"), "map", cases, jobs=2)
    assert [one for one in results if one.outcome != "kept"] == []


def loaded(name: str) -> dict[str, list[str]]:
    """The lines of the files of examples/node that one of them loads, itself included."""
    found, left = dict[str, list[str]](), [name]
    while left:
        name = left.pop()
        text = (EXAMPLES / "node" / name).read_text(encoding="utf-8")
        found[name] = text.splitlines()
        left += [one for one in re.findall(r'require\("\./([^"]+)"\)', text) if one not in found]
    return found


@pytest.mark.parametrize(("name", "most"), [("map.js", 200), ("sink.js", 120)])
def test_level_1_in_node_is_small(name: str, most: int) -> None:
    files = loaded(name)
    assert sum(map(len, files.values())) <= most
    assert max(len(line) for lines in files.values() for line in lines) <= 140


def test_what_is_loaded_is_counted() -> None:
    assert loaded("map-with-snapshots.js").keys() == {"map-with-snapshots.js", "map.js"}


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


def keeper_at_work(pipeline: Pipeline, stage: str, instance: int) -> int:
    """The pid of its keeper, once the program has had something acked by the stage after it. One that leaves before that stage
    has heard of it is waited for."""
    places = Places(pipeline.config, pipeline.env)
    keeper = wait_until(lambda: pipeline.pid_at_work(stage, instance), "it runs")
    wait_until(lambda: places.lock_words(stage, instance)[:2] == [str(keeper), locks.READY], "it is ready")
    since = time.time()

    def acks() -> bool:
        done = pipeline.zpipe("monitor", str(pipeline.path), "--once", "--json", "--timeout", "20")
        shown = json.loads(done.stdout) if done.wait() == 0 else {"stages": {}}
        heads = [one for value in shown["stages"].values() for one in value["instances"] if one["at"] > since]
        rows = [row for one in heads for link in one["links"] for row in link["consumers"]]
        return any(row["instance"] == instance and row["sent"] > row["in_flight"] for row in rows)

    wait_until(acks, "it acks")
    assert keeper is not None
    return keeper


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


def test_level_1_in_node_loses_nothing_under_kills(make: Callable[..., Pipeline], built: Path) -> None:
    """The file is keyed by the ids: a message may stand in it twice, and none may be missing."""
    pipeline = make(LEVEL_1.format(folder=built))
    kept = pipeline.folder / "kept.txt"

    def ids() -> set[str]:
        return set(kept.read_text().split()) if kept.exists() else set()

    run = pipeline.run()
    chance, names, killed = random.Random(5), list[tuple[str, int]](), set()
    for kill in range(1, 13):
        wait_until(lambda kill=kill: len(ids()) >= kill * 500, f"{kill * 500} ids", 120)  # type: ignore[misc]
        killed.add(kill_somebody(pipeline, chance, names))
    assert len(killed) == 4, "all instances were killed"
    send(keeper_at_work(pipeline, "pass", 2), signal.SIGTERM)
    wait_until(lambda: "event=stage.left stage=pass.2" in run.stderr, "pass.2 leaves in order")
    goal = len(ids()) + 500
    wait_until(lambda: len(ids()) >= goal, "its sibling goes on", 120)
    assert pipeline.zpipe("drain", str(pipeline.path), "--timeout", "120").wait(180) == 0
    assert run.wait(60) == ExitCode.UNBALANCED
    assert json.loads(run.stdout.splitlines()[-1])["problems"] == [
        f"{name} gave no final account" for name in ("keep.1", "pass.1", "pass.2")
    ]
    assert ids() == {f"read:{n}" for n in range(pipeline.position("read") + 1)}


def test_a_mixed_pipeline_loses_nothing_under_some_kills(make: Callable[..., Pipeline], built: Path) -> None:
    lose_nothing(make, built, kills=6, rate=1000, step=600, seed=3)


@pytest.mark.stress
def test_a_mixed_pipeline_loses_nothing_under_100_kills(make: Callable[..., Pipeline], built: Path) -> None:
    lose_nothing(make, built, kills=100, rate=1000, step=600, seed=7)
