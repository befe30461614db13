from __future__ import annotations

from typing import Any

from monitor_samples import CHAIN, config, link, snapshot

from zpipe.monitor.export.checks import Thresholds, line, wrong
from zpipe.monitor.model.pipeline import PipelineModel


def value(**more: Any) -> dict[str, Any]:
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("read", [link("map", 100, unsent=40)]))
    model.add(snapshot("map", [link("sink", 10)], received=20, queued=10, dead=3, oldest_s=75.0, **more))
    model.add(snapshot("sink"))
    return model.as_json(100.0)


def test_all_is_well() -> None:
    now = value()
    assert wrong(now, Thresholds()) == []
    assert wrong(now, Thresholds(depth=50, age_s=80.0, dead=3)) == []
    assert line(now, []) == "OK p: 3 instances, deepest read->map 50, oldest 75s, dead letters stored 3"


def test_each_threshold_is_named_with_what_passes_it() -> None:
    problems = wrong(value(), Thresholds(depth=49, age_s=60.0, dead=2))
    assert problems == [
        "map has 3 dead letters stored, more than 2",
        "read->map has depth 50, more than 49",
        "read->map has a message that waits for 75s, longer than 60s",
    ]
    assert line(value(), problems).startswith("FAILED p: map has 3 dead letters stored, more than 2; read->map")
    assert len(line(value(), problems).splitlines()) == 1


def test_a_link_of_its_own_overrides_the_bound_of_all() -> None:
    assert wrong(value(), Thresholds(depth=1, depths={"read->map": 1000})) == []
    assert wrong(value(), Thresholds(depths={"read->map": 49}))


def test_who_is_missing_silent_or_failed_is_wrong_without_any_threshold() -> None:
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("read", at=0.0))
    model.add(snapshot("map", state="FAILED", at=100.0))
    assert wrong(model.as_json(100.0), Thresholds()) == [
        "read.1 is silent",
        "map.1 has failed",
        "sink.1 is not heard of",
    ]


def test_what_was_lost_or_cannot_be_read_on_a_disk_is_wrong_without_any_threshold() -> None:
    rows = [link("sink", buffer={"lost": 2, "unreadable": 3, "trouble": "the disk does not give 3 messages"})]
    model = PipelineModel(config(CHAIN))
    for stage in ("read", "sink"):
        model.add(snapshot(stage))
    model.add(snapshot("map", rows))
    assert wrong(model.as_json(100.0), Thresholds()) == [
        "map.1: 2 messages to sink were damaged on its disk, and are lost",
        "map.1: the disk does not give 3 messages",
    ]


def test_who_was_not_heard_of_yet_is_not_said_to_be_gone() -> None:
    model = PipelineModel(config(CHAIN), 99.5)
    for stage in ("read", "map"):
        model.add(snapshot(stage, at=100.0))
    assert wrong(model.as_json(100.0), Thresholds()) == ["sink.1 is not heard of yet: allow more --timeout"]


def test_a_stage_that_takes_no_more_or_waits_for_a_disk_is_wrong_without_any_threshold() -> None:
    now = value(stopped_by="a storm", held_by="the disk is full")
    assert wrong(now, Thresholds()) == ["map.1 takes no more: a storm", "map.1 is held up: the disk is full"]


def test_what_waits_at_the_sender_has_an_age() -> None:
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("read", [link("map", 100, unsent=40, oldest_s=75.0)]))
    model.add(snapshot("map", [link("sink", 10)], received=20, queued=10, oldest_s=1.0))
    model.add(snapshot("sink"))
    assert wrong(model.as_json(100.0), Thresholds(age_s=60.0)) == [
        "read->map has a message that waits for 75s, longer than 60s"
    ]


def test_stored_letters_stay_wrong_when_the_process_that_stored_them_is_gone() -> None:
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("map", received=9, dead=3), 100.0)
    model.add(snapshot("map", incarnation="i2", dead_stored=3), 101.0)
    assert "map has 3 dead letters stored, more than 2" in wrong(model.as_json(101.0), Thresholds(dead=2))
    silent = model.as_json(200.0)
    assert silent["stages"]["map"]["state"] == "SILENT"
    assert "map has 3 dead letters stored, more than 2" in wrong(silent, Thresholds(dead=2))
    model.add(snapshot("map", incarnation="i2", dead_stored=2), 201.0)
    assert not any("stored" in one for one in wrong(model.as_json(201.0), Thresholds(dead=2)))
