"""What is advised where a plugin has no time left: by what its calls spend their time on, and with the rate that it brings."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from monitor_samples import CHAIN, budget, config, link, snapshot

from zpipe.config import load as load_config
from zpipe.monitor.export.recording import Recording
from zpipe.monitor.model import advice
from zpipe.monitor.model.advice import for_limited, for_working, nature_of
from zpipe.monitor.model.capacity import Capacity, Load
from zpipe.monitor.model.pipeline import UNHEARD, PipelineModel
from zpipe.monitor.table.pipeline_status import status

RECORDINGS = Path(__file__).parent / "recordings"
BUSY = {"waiting": 0.0, "working": 1.0, "blocked": 0.0, "limited": 0.0, "retrying": 0.0}
HEAD = Load(True, None, BUSY, BUSY, 100.0, 30.0, 1000, None)
WORK = Load(False, None, BUSY, BUSY, 25.0, 30.0, 1000, None, cores=0.02, starved=0.0)
"""One worker, whose calls take 40 ms."""


def advised(load: Load, live: int = 1, offered: float = 100.0) -> advice.Advice:
    """For `work`, which a source would give so many messages a second."""
    stages = {"read": {"live": 1, "rate_in": 25.0, "rate_out": 25.0}, "work": {"live": live, "rate_in": 25.0}}
    row = {"from": "read", "outlet": "", "to": "work", "rate": 25.0, "outputs": 1.0, "slope": None, "full_in_s": 0.0}
    loads = {"read": HEAD._replace(speed=offered), "work": load}
    return for_working("work", load, live, 7, Capacity(stages, {"read": [], "work": [row]}, loads))


def test_calls_that_wait_are_told_workers() -> None:
    found = advised(WORK)
    assert found.text == (
        "3 workers more (`workers.count = 4`) bring about 100/s, to keep up with read, if what it calls takes that:"
        " its calls wait 98% of their time"
    )
    assert (found.needed, found.brings) == (4, 100.0)


def test_in_several_instances_each_gets_its_part() -> None:
    found = advised(WORK._replace(workers=2, speed=50.0), live=2, offered=400.0)
    assert found.text.startswith("6 workers more in each instance (`workers.count = 8`) bring about 400/s, to keep up")


@pytest.mark.parametrize(
    ("given", "most", "setting"),
    [
        (True, None, "`workers.count = 4`"),
        (True, 4, "`workers.count = 4`"),
        (True, 3, "`workers.count = 4` and `limit.max = 4`"),
        (False, 3, "`limit.max = 4`"),
    ],
)
def test_a_limit_on_calls_is_raised_too(given: bool, most: int | None, setting: str) -> None:
    assert f"3 workers more ({setting}) bring" in advised(WORK._replace(count_given=given, most_calls=most)).text


def test_threads_bring_no_more_than_a_core_does() -> None:
    """At 10 ms of CPU a message, one process does 80 a second."""
    found = advised(WORK._replace(cores=0.25), offered=1000.0)
    assert found.text.startswith("3 workers more (`workers.count = 4`) bring about 80/s, if what it calls takes that")
    assert found.brings == 80.0
    processes = advised(WORK._replace(cores=0.25, threads=False), offered=1000.0)
    assert processes.text.startswith("39 workers more (`workers.count = 40`) bring about 1000/s, to keep up with read")


def test_what_is_used_by_others_is_not_what_a_message_costs() -> None:
    """It waits for a core as long as it uses one."""
    assert advised(WORK._replace(cores=0.25, starved=0.5), offered=150.0).brings == 150.0


def test_nobody_is_told_thousands_of_anything() -> None:
    """A source that makes its messages itself offers what no number of stages could take."""
    for load, one in ((WORK._replace(cores=0.001), "worker"), (WORK._replace(cores=0.97), "instance")):
        last = advised(load, offered=25.0 * 65)
        assert last.text.startswith(f"64 {one}s more") and last.brings == 25.0 * 65
        found = advised(load, offered=25.0 * 66)
        assert found.text.startswith(
            f"each {one} more brings about 25/s: it would take 65 to keep up with read, so slow read"
        )
        assert (found.needed, found.brings) == (66, None)


def test_calls_that_compute_are_told_instances() -> None:
    found = advised(WORK._replace(cores=0.97))
    assert found.text == "3 instances more bring about 100/s, to keep up with read, a faster plugin likewise"
    assert (found.needed, found.brings) == (4, 100.0)


def test_where_the_machine_has_no_core_left_more_instances_do_not_help() -> None:
    found = advised(WORK._replace(cores=0.97, starved=0.4))
    assert found.text.startswith("its machine has no CPU left, for a core it waits 40% of the time")
    assert found.brings is None


def test_where_nobody_can_say_it_is_instances_and_no_reason_is_given() -> None:
    for cores in (None, 0.5):
        found = advised(WORK._replace(cores=cores))
        assert found.text == "3 instances more bring about 100/s, to keep up with read"
    assert advised(WORK._replace(speed=None)).text == "a faster plugin would help, or more instances"


@pytest.mark.parametrize(
    ("load", "nature"),
    [
        (WORK._replace(cores=None), None),
        (WORK._replace(cores=advice.WAITS), "waits"),
        (WORK._replace(cores=advice.WAITS + 0.01), None),
        (WORK._replace(cores=advice.COMPUTES - 0.01), None),
        (WORK._replace(cores=advice.COMPUTES), "computes"),
        (WORK._replace(cores=advice.ONE_CORE, workers=8), "computes"),
        (WORK._replace(cores=advice.ONE_CORE - 0.01, workers=8), "waits"),
        (WORK._replace(cores=advice.ONE_CORE, workers=8, threads=False), "waits"),
    ],
)
def test_what_calls_spend_their_time_on(load: Load, nature: str | None) -> None:
    assert nature_of(load) == nature


def test_a_limit_is_told_by_its_kind() -> None:
    shares = BUSY | {"working": 0.25, "limited": 0.75}
    load = WORK._replace(shares=shares, speed=10.0, workers=8)
    stage: dict[str, Any] = {"live": 1, "limit": 2}
    reached = for_limited(load._replace(most_calls=2), stage).text
    assert (
        reached
        == "raise `limit.max`, which is reached and keeps workers idle: each call more at once brings about 5.0/s"
    )
    assert "the service's capacity" in for_limited(load._replace(most_calls=8), stage).text
    a_second = for_limited(load._replace(rate=10.0), stage | {"limit": None}).text
    assert a_second == ("raise `limit.rate`, if what it calls takes more; without it its workers could do about 40/s")


# ---- recorded from real pipelines, on a machine with more to do than its two cores can

CONFIG = """
[pipeline]
name = "{name}"
[telemetry]
interval = "500ms"
[stages.read]
plugin = "generate"
[stages.work]
input = "read"
plugin = "discard"
[stages.store]
input = "work"
plugin = "discard"
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("waits", "workers more (`workers.count = "),
        ("computes", "its machine has no CPU left"),
    ],
)
def test_recorded_calls(tmp_path: Path, name: str, says: str) -> None:
    """`waits` sleeps for 40 ms a message, `computes` uses 40 ms of CPU."""
    path = tmp_path / "p.toml"
    path.write_text(CONFIG.format(name=name))
    model = PipelineModel(load_config(path))
    said = []
    with closing(Recording(RECORDINGS / f"{name}.ndjson.gz", name)) as recording:
        for at, one in recording.until(recording.ended):
            model.add(one, at)
            said.append(model.as_json(at)["bottleneck"])
    last = [one for one in said if one is not None and one["kind"] == "working"]
    assert len(last) > 20 and all(says in one["advice"] for one in last[len(last) // 2 :])


@pytest.mark.parametrize(("cpu_s", "says"), [(0.97, "instances more bring"), (0.05, "(`workers.count = ")])
def test_a_stage_that_was_idle_before_is_judged_by_what_it_does_now(cpu_s: float, says: str) -> None:
    """Over the long window, in which it was idle, it needed little CPU either way."""
    model = PipelineModel(config(CHAIN))
    received, cpu = 0, 0.0
    for n in range(30):
        at, busy = 100.0 + n, n > 24
        rate = 25 if busy else 1
        received, cpu = received + rate, cpu + (cpu_s if busy else 0.01)
        given = received + 200 * max(n - 24, 0)
        unsent = given - received
        shares = budget(working=0.99 if busy else 0.04)
        facts: dict[str, Any] = {"at": at, "rate_out": float(rate), "rate_in": float(rate)}
        read = {"read_messages": given, "read_s": given / 225, "received": given}
        work = {"budget": shares, "received": received, "cpu_s": cpu, "cpu_wait_s": 0.0}
        model.add(snapshot("read", [link("map", given, unsent=unsent)], **facts, **read), at)
        model.add(snapshot("map", [link("sink", received)], **facts, **work), at)
        model.add(snapshot("sink", received=received, **facts), at)
        found = model.as_json(at)["bottleneck"]
    assert found is not None and (found["stage"], found["kind"]) == ("map", "working"), found
    assert says in found["advice"], found


# ---- what holds a stage is said at once, and once


@pytest.mark.parametrize("key", ["held_by", "stopped_by"])
def test_a_storm_or_a_hold_is_named_in_the_interval_in_which_it_is_published(key: str) -> None:
    """Even if nothing waits yet: what it has in process is not in any depth."""
    why = "60 of the last 100 messages became dead letters"
    model = PipelineModel(config(CHAIN))
    for at, more in ((100.0, {}), (101.0, {key: why})):
        for stage in CHAIN:
            links = [link("map", 10)] if stage == "read" else []
            model.add(snapshot(stage, links, received=10, at=at, **(more if stage == "map" else {})), at)
        found = model.as_json(at)["bottleneck"]
        assert (found is not None and found["kind"] == "held") == bool(more), found
    assert found is not None and found["why"] == f"map takes no more: {why}"
    text = ["".join(part for part, _ in line) for line in status(model.as_json(101.0), 200)]
    assert sum(why in line for line in text) == 1


def test_a_pipeline_that_comes_up_is_not_absent_while_it_does() -> None:
    """The monitor has waited for long, and the first instance is there a moment before the others."""
    made = replace(config(CHAIN), interval_s=1.0)
    model = PipelineModel(made, listening_since=0.0)
    assert model.as_json(50.0)["stages"]["map"]["state"] == "ABSENT"
    model.add(snapshot("read", [link("map", 40, unsent=40)], received=40, at=50.0), 50.0)
    for at in (50.0, 53.9):
        model.add(snapshot("read", [link("map", 40, unsent=40)], received=40, at=at), at)
        value = model.as_json(at)
        assert value["stages"]["map"]["state"] == UNHEARD and value["bottleneck"] is None
    model.add(snapshot("read", [link("map", 40, unsent=40)], received=40, at=54.1), 54.1)
    found = model.as_json(54.1)
    assert found["stages"]["map"]["state"] == "ABSENT" and found["bottleneck"]["kind"] == "down"
