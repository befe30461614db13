"""States of pipelines for the views: values of the model, made of snapshots, the same at every run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from monitor_samples import budget, config, consumer, link, snapshot

from zpipe.config import PipelineConfig
from zpipe.monitor.model.events import Events
from zpipe.monitor.model.history import History
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.screen.pane import Letters, Shown
from zpipe.monitor.table.glyphs import UNICODE, Glyphs

ORDERS = {"read": [], "parse": ["read"], "check": ["parse"], "store": ["check"], "audit": ["check", "read"]}
TWENTY = {
    "ingest": [],
    "decode": ["ingest"],
    "validate": ["decode"],
    **{
        f"{kind}-{step}": [source.format(kind)]
        for kind in ("text", "image", "audio", "video")
        for step, source in (("split", "validate"), ("model", "{}-split"), ("clean", "{}-model"))
    },
    "merge": ["text-clean", "image-clean", "audio-clean", "video-clean"],
    "rank": ["merge"],
    "index": ["rank"],
    "archive": ["rank", "decode"],
    "audit": ["merge", "audio-clean"],
}
SECONDS = 30
Change = Callable[[dict[str, Any], int], dict[str, Any] | None]
"""Makes of the snapshot of an instance, and the second it is taken in, the one that is heard; None: none is heard."""


def played(
    made: PipelineConfig, change: Change = lambda one, second: one, glyphs: Glyphs = UNICODE, seconds: int = SECONDS
) -> Shown:
    """A pipeline that runs evenly at 100 messages a second, as `change` alters it, after so many seconds."""
    model, history, events = PipelineModel(made, 0.0), History(), Events()
    for second in range(seconds + 1):
        at = 100.0 + second
        for stage in made.stages.values():
            for instance in range(1, stage.instances + 1):
                one = change(_running(made, stage.name, instance, second), second)
                if one is not None and model.add(one | {"at": at}, at):
                    events.add(one | {"at": at}, at)
        value = model.as_json(at)
        history.add(value)
        events.note_silence(value)
    return Shown(value, history, events.recent, "12:00:30", made, glyphs=glyphs)


def _running(made: PipelineConfig, name: str, instance: int, second: int) -> dict[str, Any]:
    stage = made.stages[name]
    part = 100.0 / stage.instances
    done = int(part * (second + 10))
    rows = [
        link(to, done, in_flight=2, outlet=outlet, consumers=[consumer(credit=500)])
        for outlet, to in made.consumers(name)
    ]
    rates = {"rate_in": part if stage.inputs else 0.0, "rate_out": part}
    latency = {"in_stage": {"p50_s": 0.002, "p90_s": 0.004, "p99_s": 0.009}}
    latency["since_origin"] = {"p50_s": 0.02, "p90_s": 0.05, "p99_s": 0.08}
    histogram = {
        "in_stage": {"messages": 90, "sum_s": 1.0, "buckets": [[0.002048, 40], [0.004096, 30], [0.016384, 20]]}
    }
    more = {"latency": latency, "latency_histogram": histogram} if stage.inputs else {"finished": done}
    return snapshot(
        name, rows, instance=instance, received=done, budget=budget(working=0.1), pid=1000 + instance, **rates, **more
    )


def orders() -> PipelineConfig:
    return replace(config(ORDERS, {"check": 2}), name="orders")


def load(glyphs: Glyphs = UNICODE) -> Shown:
    """`parse` does not keep up."""

    def change(one: dict[str, Any], second: int) -> dict[str, Any]:
        if one["stage"] == "parse":
            one |= {
                "budget": budget(working=0.99),
                "rate_in": 78.0,
                "rate_out": 78.0,
                "queued": 900,
                "queued_bytes": 9000,
            }
            one["received"] += 900
        if one["stage"] == "read":
            one["links"][0] |= {"unsent": min(60 * second, 2048), "oldest_s": second / 3}
            one["links"][0]["produced"] += one["links"][0]["unsent"]
            one["budget"] = budget(blocked=0.3) if second > 20 else budget()
        if one["stage"] == "check":
            one |= {"dead": second // 3, "dead_stored": second // 3, "retries": second}
            one["received"] += second // 3
        return one

    return played(orders(), change, glyphs)


def idle() -> Shown:
    def change(one: dict[str, Any], second: int) -> dict[str, Any]:
        still = _running(orders(), one["stage"], one["instance"], 0)
        for row in still["links"]:
            row |= {"acked": row["produced"], "in_flight": 0}
        return still | {"rate_in": 0.0, "rate_out": 0.0, "budget": budget(), "latency": {}}

    return played(orders(), change)


def down() -> Shown:
    """`store` was killed ten seconds ago, and what comes before it fills."""

    def change(one: dict[str, Any], second: int) -> dict[str, Any] | None:
        if one["stage"] == "store" and second > 20:
            return None
        if one["stage"] == "check" and second > 20:
            one["links"][0]["unsent"] = (second - 20) * 50
            one["links"][0]["produced"] += one["links"][0]["unsent"]
        return one

    return played(orders(), change)


def storm() -> Shown:
    """The circuit breaker of `check` has opened."""

    def change(one: dict[str, Any], second: int) -> dict[str, Any]:
        if one["stage"] == "check" and second > 20:
            why = "60 of the last 100 messages died, the last of KeyError: 'customer'; zpipe resume has it go on"
            one |= {"stopped_by": why, "dead": 30, "dead_stored": 30, "queued": 500, "queued_bytes": 5000}
            one["received"] += 530
            one |= {"rate_in": 0.0, "rate_out": 0.0, "budget": budget()}
        return one

    return played(orders(), change)


def disk_full() -> Shown:
    def change(one: dict[str, Any], second: int) -> dict[str, Any]:
        if one["stage"] == "store" and second > 20:
            one |= {"held_by": "orders.db: No space left on device; make room", "queued": 20, "queued_bytes": 200}
            one["received"] += 20
            one |= {"rate_in": 0.0, "rate_out": 0.0, "budget": budget(retrying=1.0)}
        return one

    return played(orders(), change)


def paused() -> Shown:
    def change(one: dict[str, Any], second: int) -> dict[str, Any]:
        if one["stage"] == "check" and second > 20:
            one |= {"paused": True, "queued": 300, "queued_bytes": 3000, "rate_out": 0.0, "budget": budget()}
            one["received"] += 300
        return one

    return played(orders(), change)


def twenty(glyphs: Glyphs = UNICODE) -> Shown:
    def change(one: dict[str, Any], second: int) -> dict[str, Any]:
        if one["stage"] == "video-model":
            one |= {
                "budget": budget(working=0.99),
                "rate_in": 3.3,
                "rate_out": 3.3,
                "queued": 1100,
                "queued_bytes": 9000,
            }
            one["received"] += 1100
        return one

    return played(replace(config(TWENTY), name="twenty"), change, glyphs)


def many() -> Shown:
    """64 instances of one stage."""
    made = config({"read": [], "work": ["read"], "sink": ["work"]}, {"work": 64})

    def change(one: dict[str, Any], second: int) -> dict[str, Any]:
        if one["stage"] == "work" and one["instance"] % 3 == 0:
            one["budget"] = budget(working=0.8, limited=0.1)
        return one

    return played(replace(made, name="many"), change, seconds=6)


STATES: dict[str, Callable[[], Shown]] = {
    "load": load,
    "idle": idle,
    "down": down,
    "storm": storm,
    "disk-full": disk_full,
    "paused": paused,
    "twenty": twenty,
    "many": many,
}
SIZES = ((80, 24), (120, 40), (200, 50))


def letters() -> Letters:
    rows = [
        {
            "letter": f"check.{1 + n % 2}/{n}",
            "stage": "check",
            "instance": 1 + n % 2,
            "number": n,
            "id": f"read:{100 * n}",
            "at": 100.0 + n,
            "kind": "message",
            "reason": "KeyError: 'customer'" if n % 3 else "ValueError: a bad record\nin two lines",
            "attempts": 2,
            "deaths": 0,
            "replaying": n == 5,
        }
        for n in range(30, 0, -1)
    ]
    return Letters(rows, len(rows))
