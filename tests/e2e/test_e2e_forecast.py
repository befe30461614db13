"""When a link will be full, as `zpipe monitor --json` says it each interval, and when its source in fact had to wait."""

from __future__ import annotations

import json
from typing import Any

from e2e_types import MakePipeline
from pipeline import Command, wait_until

INTERVAL_S = 0.25
CONFIG = """
[pipeline]
name = "p"

[telemetry]
interval = "250ms"

[stages.read]
plugin = "./source.py"
unacked = { messages = 1500 }

[stages.store]
input = "read"
plugin = "./store.py"
"""
# Both keep to a timetable, so that a busy machine delays a message, and not all that come after it.
SOURCE = """
import time
from zpipe import hookimpl


@hookimpl
def zpipe_source(context):
    due = time.monotonic()
    for n in range(10**9):
        due += 0.005
        if context.stopping.wait(max(0.0, due - time.monotonic())):
            return
        yield n, {"id": n}
"""
STORE = """
import time
from zpipe import hookimpl

due = time.monotonic()


@hookimpl
def zpipe_process(message):
    global due
    due = max(due + 0.01, time.monotonic() - 1.0)
    time.sleep(max(0.0, due - time.monotonic()))
"""


def lines(monitor: Command) -> list[dict[str, Any]]:
    """Those that are whole."""
    return [json.loads(line) for line in monitor.stdout.splitlines(keepends=True) if line.endswith("\n")]


def waited_from(value: dict[str, Any]) -> float | None:
    """When the source began to wait, by its own word."""
    instances = value["stages"]["read"]["instances"]
    blocked = instances[0]["budget"]["blocked"] if instances else 0.0
    return instances[0]["at"] - blocked * INTERVAL_S if blocked else None


def test_time_to_full_is_within_a_quarter_of_what_happens(make: MakePipeline) -> None:
    pipeline = make(CONFIG, source=SOURCE, store=STORE)
    pipeline.run()
    wait_until(lambda: pipeline.zpipe("monitor", str(pipeline.path), "--once", "--json").wait() == 0, "it is heard of")
    monitor = pipeline.zpipe("monitor", str(pipeline.path), "--json")
    wait_until(
        lambda: any(link["full_in_s"] == 0.0 for value in lines(monitor) for link in value["links"]), "it is full"
    )
    shown = lines(monitor)
    full_at = next(at for value in shown if (at := waited_from(value)) is not None)
    said = [(full_at - value["at"], value["links"][0]["full_in_s"]) for value in shown]
    began = next(
        n for n, value in enumerate(shown) if value["stages"]["store"]["rate_in"]
    )  # both are up: it grows steadily
    settled = [(left, one) for left, one in said[began + 12 :] if left > 4 * INTERVAL_S]
    figures = [(left, one) for left, one in settled if one is not None]
    assert len(figures) > 0.6 * len(settled) > 8, said
    assert [(left, one) for left, one in figures if abs(one - left) > 0.25 * left] == [], said
