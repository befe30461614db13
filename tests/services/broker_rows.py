"""What is the same in the rows of all brokers: a pipeline whose sink writes into the broker, and whose source reads there what
the sink has written, into a database by the number of each message."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

from pipeline import Pipeline
from rows import DEADLINE_S, MESSAGES, PACE, wait_for_progress

PASSWORD = "BROKER_PASSWORD"
"""The environment variable that the options take it from."""
END_S = 20
"""So long nothing has to come until a source ends: longer than a stage or a broker takes to be there again, and than the sink
before it then waits until it tries again. (6 s was not: the source ended while the sink was still waiting.)"""


def there_and_back(
    plugin: str, put: str, take: str, count: int = MESSAGES, rate: int | None = PACE, end_s: float = END_S
) -> str:
    """The config. `put` and `take`: the options of the sink and of the source, as a table in a line without its braces."""
    paced = f", rate = {rate}" if rate else ""
    return f"""
[pipeline]
name = "{plugin.replace("_", "-")}"

[stages.make]
plugin = "generate"
options = {{ count = {count}, fields = {{ word = "räksmörgås", flag = true }}{paced} }}

[stages.put]
plugin = "{plugin}"
input = "make"
batch = {{ messages = 500, timeout = "50ms" }}
options = {{ {put} }}

[stages.take]
plugin = "{plugin}"
options = {{ {take}, end_after = "{end_s}s" }}

[stages.store]
plugin = "sqlite"
input = "take"
batch = {{ messages = 500, timeout = "50ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""


def divided(plugin: str, put: str, take: str, count: int, rate: int = PACE) -> str:
    """The config with two instances of the source."""
    text = there_and_back(plugin, put, take, count, rate, end_s=DEADLINE_S)
    return text.replace("[stages.take]", "[stages.take]\ninstances = 2")


def run_divided(pipeline: Pipeline, count: int) -> None:
    """Runs that, and kills one instance and then the other. Nothing is lost, and both have had their share since."""
    run = pipeline.run()
    for instance, share in ((2, 4), (1, 2)):
        wait_for_progress(run, lambda: stored(pipeline), count // share)
        pipeline.kill("take", instance)
    wait_for_progress(run, lambda: stored(pipeline), count)
    run.interrupt()
    ledger = run.ledger(DEADLINE_S)
    assert ledger["stages"]["take"]["restarts"] == 2 and not any(row["dead"] for row in ledger["stages"].values())
    assert_all_stored(pipeline, count)
    assert all(pipeline.final("take", instance)["completed"] for instance in (1, 2))


def only_put(plugin: str, put: str, count: int) -> str:
    text = there_and_back(plugin, put, "", count, None)
    return text[: text.index("[stages.take]")]


def only_take(plugin: str, take: str, end_s: float = 1) -> str:
    return f"""
[pipeline]
name = "{plugin.replace("_", "-")}"

[stages.take]
plugin = "{plugin}"
options = {{ {take}, end_after = "{end_s}s" }}

[stages.nowhere]
plugin = "discard"
input = "take"
"""


def stored(pipeline: Pipeline) -> int:
    """How many messages are in the database. 0 while there is none."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{pipeline.folder}/out.db?mode=ro", uri=True)) as base:
        return int(base.execute("SELECT count(*) FROM t").fetchone()[0])
    return 0


def assert_all_stored(pipeline: Pipeline, count: int = MESSAGES) -> None:
    with closing(sqlite3.connect(pipeline.folder / "out.db")) as base:
        rows = base.execute("SELECT id, word, flag FROM t ORDER BY CAST(id AS INTEGER)").fetchall()
    assert [int(row[0]) for row in rows] == list(range(count))
    assert {row[1] for row in rows} == {"räksmörgås"}


def plain_rate(script: Callable[[], Any], messages: int) -> float:
    """Messages a second of a plain script that does it all once."""
    began = time.monotonic()
    script()
    return messages / (time.monotonic() - began)
