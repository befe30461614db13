"""Crashes stay visible: in the model, on the screen, in the details, the events and the metrics."""

from __future__ import annotations

from typing import Any

from monitor_samples import CHAIN, config, snapshot

from zpipe.monitor.export.metrics import METRICS
from zpipe.monitor.formatting import crash_text
from zpipe.monitor.model.events import Events
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.screen.views.stage_view import instance_details
from zpipe.monitor.table.columns import plain
from zpipe.monitor.table.pipeline_status import status

SEGV = {"how": "killed by SIGSEGV", "at": 90.0, "messages_in_call": 1, "ids": ["read:17"]}
KILL = {"how": "killed by SIGKILL", "at": 95.0, "messages_in_call": 0, "ids": []}


def value() -> dict[str, Any]:
    model = PipelineModel(config(CHAIN, {"map": 2}))
    model.add(snapshot("read"))
    model.add(snapshot("map", restarts={"SIGSEGV": 2, "exit code 1": 1}, last_crash=SEGV))
    model.add(snapshot("map", instance=2, restarts={"SIGSEGV": 1, "SIGKILL": 1}, last_crash=KILL))
    model.add(snapshot("sink", restarts={}, last_crash=None))
    return model.as_json(100.0)


def test_the_model_has_them_by_reason_and_the_last() -> None:
    stage = value()["stages"]["map"]
    assert stage["restarts"] == {"SIGSEGV": 3, "exit code 1": 1, "SIGKILL": 1}
    assert stage["last_crash"] == {"instance": 2, **KILL}
    assert value()["stages"]["sink"]["restarts"] == {} and value()["stages"]["sink"]["last_crash"] is None


def test_the_screen_has_a_column_of_them_where_there_are_any() -> None:
    for width in (90, 160):
        lines = [plain(line) for line in status(value(), width)]
        head = next(line for line in lines if "CRASH" in line)
        row = next(line for line in lines if line.lstrip(" *").startswith("map "))
        end = head.index("CRASH") + len("CRASH")
        assert row[:end].endswith(" 5"), (head, row)
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("map"))
    assert not any("CRASH" in plain(line) for line in status(model.as_json(100.0), 160))


def test_the_details_say_what_ended_it_and_which_message_was_in_the_call() -> None:
    text = "\n".join(line for one in value()["stages"]["map"]["instances"] for line in instance_details(one))
    assert "started again after crashes: 2 SIGSEGV, 1 exit code 1" in text
    assert "killed by SIGSEGV, in the call for read:17" in text


def test_worker_processes_are_counted_beside_the_instances() -> None:
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("map", restarts={"SIGKILL": 1}, worker_restarts={"timeout": 3, "SIGSEGV": 1}))
    stage = model.as_json(100.0)["stages"]["map"]
    assert stage["worker_restarts"] == {"timeout": 3, "SIGSEGV": 1} and stage["restarts"] == {"SIGKILL": 1}
    assert "worker processes that died: 3 timeout, 1 SIGSEGV" in list(instance_details(stage["instances"][0]))
    [metric] = [metric for metric in METRICS if metric.name == "zpipe_worker_restarts_total"]
    assert dict(metric.samples(model.as_json(100.0))) == {
        ("p", "map", "1", "timeout"): 3,
        ("p", "map", "1", "SIGSEGV"): 1,
    }


def test_the_event_of_a_restart_says_why() -> None:
    events = Events()
    events.add(snapshot("map"), 100.0)
    events.add(snapshot("map", incarnation="i2", last_crash=SEGV), 101.0)
    events.add(snapshot("map", incarnation="i3", last_crash=SEGV), 102.0)
    assert [event.text for event in events.recent] == [
        "map.1 was restarted (killed by SIGSEGV, in the call for read:17): incarnation i2",
        "map.1 was restarted: incarnation i3",
    ]


def test_a_stage_that_is_held_is_an_event_and_so_is_its_end() -> None:
    events = Events()
    for more in ({}, {"held_by": "the disk is full"}, {"held_by": "the disk is full"}, {}, {"stopped_by": "a storm"}):
        events.add(snapshot("map", **more), 100.0)
    assert [(event.text, event.bad) for event in events.recent] == [
        ("map.1 is held up: the disk is full", True),
        ("map.1 works again", False),
        ("map.1 takes no more: a storm", True),
    ]


def test_the_metric_has_a_sample_for_each_reason() -> None:
    [metric] = [metric for metric in METRICS if metric.name == "zpipe_restarts_total"]
    found = dict(metric.samples(value()))
    assert found["p", "map", "1", "SIGSEGV"] == 2 and found["p", "map", "2", "SIGKILL"] == 1
    assert len(found) == 4


def test_a_crash_in_words() -> None:
    many = {"how": "killed by SIGABRT (watchdog)", "messages_in_call": 500, "ids": ["a", "b\x1b[2J"]}
    assert crash_text(many) == "killed by SIGABRT (watchdog), in the call for a, b\\u001b[2J and 498 more"
    assert crash_text(KILL) == "killed by SIGKILL"
    assert crash_text({"how": "exit code 9", "messages_in_call": 3}) == "exit code 9, with 3 in a call"
    assert crash_text({}) == "unknown"
