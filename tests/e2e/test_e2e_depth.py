"""The depth that the monitor shows against what the plugins themselves have counted, at quiet points between kills."""

from __future__ import annotations

import json
import random
from typing import Any

from e2e_types import MakePipeline
from pipeline import Pipeline, wait_until

CONFIG = """
[pipeline]
name = "p"

[telemetry]
interval = "200ms"

[stages.read]
plugin = "./source.py"

[stages.work]
input = "read"
plugin = "./work.py"
instances = 2
queue = { messages = 100 }

[stages.store]
input = "work"
plugin = "./store.py"
queue = { messages = 100 }
batch = { messages = 7, timeout = "50ms" }
"""
SOURCE = """
from pathlib import Path
from zpipe import hookimpl

TALLY = Path(__file__).with_name("read.tally")


@hookimpl
def zpipe_source(context):
    n = 0 if context.position is None else context.position + 1
    with TALLY.open("a") as tally:
        while not context.stopping.wait(0.003):
            yield n, {"id": n}
            tally.write(f"{n}\\n")
            tally.flush()
            n += 1
"""
RESTING = """
from pathlib import Path
from zpipe import hookimpl

HERE = Path(__file__).parent


@hookimpl
def zpipe_source(context):
    n = 0
    with HERE.joinpath("read.tally").open("a") as tally:
        while not context.stopping.wait(0.001):
            if n < (777 if HERE.joinpath("go").exists() else 20):
                yield n, {"id": n}
                tally.write(f"{n}\\n")
                tally.flush()
                n += 1
"""
WORK = """
from pathlib import Path
from zpipe import hookimpl

HERE = Path(__file__).parent


@hookimpl
def zpipe_process(message, context):
    with HERE.joinpath(f"work.{context.instance}.tally").open("a") as tally:
        tally.write(f"{message.payload['id']}\\n")
    return message.payload
"""
STORE = """
from pathlib import Path
from zpipe import hookimpl

TALLY = Path(__file__).with_name("store.tally")


@hookimpl
def zpipe_process_batch(messages):
    with TALLY.open("a") as tally:
        tally.writelines(f"{message.payload['id']}\\n" for message in messages)
"""


def counted(pipeline: Pipeline, stage: str) -> set[str]:
    """The ids that a stage's plugin has seen, in whatever life."""
    return {line for path in pipeline.folder.glob(f"{stage}*.tally") for line in path.read_text().splitlines()}


def shown(pipeline: Pipeline) -> dict[str, Any]:
    monitor = pipeline.zpipe("monitor", str(pipeline.path), "--once", "--json")
    assert monitor.wait() == 0, monitor.stderr
    value: dict[str, Any] = json.loads(monitor.stdout)
    return value


def depths(pipeline: Pipeline) -> dict[str, tuple[int, int]]:
    """(depth, remainder) by link."""
    return {f"{x['from']}->{x['to']}": (x["depth"], x["remainder"]) for x in shown(pipeline)["links"]}


def ask(pipeline: Pipeline, what: str, *stages: str) -> None:
    for stage in stages:
        asked = pipeline.zpipe(what, str(pipeline.path), stage)
        assert asked.wait() == 0, asked.stderr


def settled(pipeline: Pipeline) -> bool:
    """All that was read is stored, and acked."""
    return counted(pipeline, "read") == counted(pipeline, "store") and depths(pipeline) == {
        "read->work": (0, 0),
        "work->store": (0, 0),
    }


def quiet(pipeline: Pipeline, held: int) -> bool:
    """Nothing moves: two looks at what is shown and counted are the same."""
    looks = [(depths(pipeline), len(counted(pipeline, "read"))) for _ in range(2)]
    return looks[0] == looks[1] and sum(depth for depth, _ in looks[0][0].values()) >= held


def test_depth_is_what_the_plugins_have_counted(make: MakePipeline) -> None:
    chance = random.Random(4)
    pipeline = make(CONFIG, source=SOURCE, work=WORK, store=STORE)
    run = pipeline.run()
    wait_until(lambda: len(counted(pipeline, "store")) > 50, "it works")
    for _ in range(2):
        pipeline.kill(*chance.choice([("read", 1), ("work", 1), ("work", 2), ("store", 1)]))
        before = len(counted(pipeline, "store"))
        wait_until(lambda before=before: len(counted(pipeline, "store")) > before + 20, "it works after the kill")
        ask(pipeline, "pause", "read")
        wait_until(lambda: settled(pipeline), "what was read is stored")
        stages = chance.choice([("work", "store"), ("store",), ("work",)])
        ask(pipeline, "pause", *stages)
        ask(pipeline, "resume", "read")
        done = len(counted(pipeline, "read"))
        wait_until(lambda done=done: len(counted(pipeline, "read")) >= done + chance.randint(30, 600), "some are held")
        ask(pipeline, "pause", "read")
        wait_until(lambda: quiet(pipeline, 20), "nothing moves")
        read, work, store = (counted(pipeline, stage) for stage in ("read", "work", "store"))
        assert depths(pipeline) == {"read->work": (len(read - work), 0), "work->store": (len(work - store), 0)}
        ask(pipeline, "resume", "work", "store", "read")
    run.interrupt()
    run.ledger()
    assert counted(pipeline, "read") == counted(pipeline, "store")


def test_what_a_source_that_rests_has_given_is_in_the_depth(make: MakePipeline) -> None:
    """While others wait a source's messages are taken in by the section, but who looks on sees them all."""
    pipeline = make(CONFIG, source=RESTING, work=WORK, store=STORE)
    run = pipeline.run()
    wait_until(lambda: len(counted(pipeline, "store")) == 20, "it works")
    ask(pipeline, "pause", "work")
    (pipeline.folder / "go").touch()
    wait_until(lambda: len(counted(pipeline, "read")) == 777, "the source rests")
    wait_until(lambda: quiet(pipeline, 100), "nothing moves")
    assert depths(pipeline) == {"read->work": (757, 0), "work->store": (0, 0)}
    ask(pipeline, "resume", "work")
    run.interrupt()
    run.ledger()
