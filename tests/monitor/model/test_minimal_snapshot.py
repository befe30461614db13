"""Every reader of snapshots, given instances that say only what PROTOCOL.md 5.9 requires of them: none falls over, and nobody
gives a verdict on figures that are not there."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monitor_samples import CHAIN, config, consumer, link, only_required, snapshot

from zpipe.core.telemetry.snapshot import broken, sound
from zpipe.monitor.export.checks import Thresholds, line, wrong
from zpipe.monitor.export.metrics import METRICS
from zpipe.monitor.export.recording import Recorder, Recording
from zpipe.monitor.export.tape import Tape
from zpipe.monitor.model.events import Events
from zpipe.monitor.model.history import History
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.model.run_ledger import RunLedger
from zpipe.monitor.run.drain_progress import DrainProgress, drain_text, holdings
from zpipe.monitor.run.progress import PlainProgress
from zpipe.monitor.screen.app import VIEWS
from zpipe.monitor.screen.header import header, sentence
from zpipe.monitor.screen.pane import Choice, Shown
from zpipe.monitor.table.columns import plain
from zpipe.monitor.table.pipeline_status import status

CONFIG = config(CHAIN)


def said(**more: Any) -> Iterator[dict[str, Any]]:
    """A snapshot of each stage of CHAIN, cut down to what is required; messages wait on both links."""
    full = [
        snapshot("read", [link("map", 100, in_flight=20, unsent=30)], received=100, **more),
        snapshot("map", [link("sink", 40, in_flight=10)], received=70, queued=20, in_process=10, **more),
        snapshot("sink", received=40, queued=5, dead=1, **more),
    ]
    return map(only_required, full)


@pytest.fixture
def value() -> dict[str, Any]:
    model = PipelineModel(CONFIG)
    for one in said():
        assert model.add(one, 100.0)
    return model.as_json(100.0)


def test_it_is_sound_and_adds_up() -> None:
    for one in said():
        assert sound(one) and broken(one) == []


def test_the_model_has_counts_and_none_for_what_nobody_says(value: dict[str, Any]) -> None:
    stage = value["stages"]["map"]
    assert (stage["state"], stage["depth"], stage["received"], stage["in_process"]) == ("RUNNING", 20, 70, 10)
    for key in ("rate_in", "rate_out", "budget", "oldest_s", "depth_bytes", "rss_bytes", "limit"):
        assert stage[key] is None, key
    row = next(row for row in value["links"] if row["to"] == "map")
    assert (row["depth"], row["unsent"], row["queued"], row["in_flight"]) == (50, 30, 20, 20)
    for key in ("rate", "oldest_s", "depth_bytes", "credit", "bound", "full_in_s"):
        assert row[key] is None, key
    json.dumps(value, allow_nan=False)


def test_rates_are_known_from_two_of_them() -> None:
    model = PipelineModel(CONFIG)
    model.add(only_required(snapshot("map", [link("sink", 10)], received=10)), 100.0)
    model.add(only_required(snapshot("map", [link("sink", 30)], received=30)), 101.0)
    assert model.as_json(101.0)["stages"]["map"]["rate_in"] == 20.0


def test_what_holds_the_pipeline_up_is_not_named_and_the_screen_says_why(value: dict[str, Any]) -> None:
    assert value["bottleneck"] is None
    for width in (60, 80, 160):
        text = " ".join(plain(one).strip() for one in status(value, width))
        assert "read, map, sink: time budget not said, so what holds the pipeline up is not known" in text
        assert "0%" not in text and "0 B" not in text


def test_one_that_says_nothing_of_its_time_is_enough_for_no_verdict() -> None:
    """Its part may be the largest: the source is not to be blamed instead."""
    model = PipelineModel(CONFIG)
    for at in range(100, 140):
        model.add(snapshot("read", [link("map", 9 * at)], received=9 * at, at=float(at), rate_out=9.0))
        model.add(snapshot("map", [link("sink", 9 * at)], received=9 * at, at=float(at), rate_out=9.0))
        least = snapshot("sink", received=9 * at)
        model.add(least | {"at": float(at), "budget": None}, float(at))
    assert model.as_json(139.0)["bottleneck"] is None
    for at in range(140, 180):
        model.add(snapshot("read", [link("map", 9 * at)], received=9 * at, at=float(at), rate_out=9.0))
        model.add(snapshot("map", [link("sink", 9 * at)], received=9 * at, at=float(at), rate_out=9.0))
        model.add(snapshot("sink", received=9 * at, at=float(at)))
    assert model.as_json(179.0)["bottleneck"]["kind"] == "source"


def test_a_stage_that_does_not_run_is_named_all_the_same() -> None:
    model = PipelineModel(CONFIG)
    for one in said():
        model.add(one | ({"state": "FAILED"} if one["stage"] == "sink" else {}), 100.0)
    assert model.as_json(100.0)["bottleneck"]["kind"] == "down"


def test_a_sender_that_does_not_list_its_consumers_has_the_depth_that_they_say() -> None:
    session = {
        "from": "map",
        "outlet": "",
        "instance": 1,
        "incarnation": "i1",
        "received": 20,
        "queued": 5,
        "unacked": 15,
    }
    model = PipelineModel(CONFIG)
    model.add(only_required(snapshot("map", [link("sink", 40, in_flight=28, unsent=7)])) | {"at": 100.0}, 100.0)
    model.add(snapshot("sink", received=20, queued=5, sessions=[session], at=100.4), 100.4)
    (row,) = [row for row in model.as_json(100.4)["links"] if row["to"] == "sink"]
    assert [row[key] for key in ("unsent", "under_way", "queued", "depth", "remainder")] == [7, 13, 5, 25, 0]


@pytest.mark.parametrize("number", VIEWS)
def test_every_view_shows_what_is_said(value: dict[str, Any], number: int) -> None:
    for width, height in ((80, 24), (120, 40), (200, 50)):
        for name in CHAIN:
            for sort in range(10):
                shown = Shown(value, History(), (), "12:00:00", CONFIG)
                choice = Choice(number, stage=name, sort={number: sort}, unfolded={f"instance:{name}.1"})
                view = VIEWS[number](shown, choice, width, height)
                text = "\n".join(plain(line) for line in view.main.lines)
                assert "duplicates" not in text
                if number == 3:
                    assert "how it spends its time is not published" in "\n".join(map(plain, view.main.head))
        assert header(shown, width, height) and sentence(shown, width, height)


def test_a_check_does_not_pass_what_nobody_says(value: dict[str, Any]) -> None:
    assert wrong(value, Thresholds()) == []
    assert line(value, []).endswith("oldest unknown, dead letters stored unknown")
    assert wrong(value, Thresholds(dead=0))[-1] == "sink does not say how many dead letters it has stored (--max-dead)"
    problems = wrong(value, Thresholds(age_s=60.0))
    assert problems == [
        "read->map has messages that wait, and nobody says how long (--max-age)",
        "map->sink has messages that wait, and nobody says how long (--max-age)",
    ]


def test_metrics_are_served_of_what_is_said(value: dict[str, Any]) -> None:
    found = {metric.name: list(metric.samples(value)) for metric in METRICS}
    assert found["zpipe_messages_received_total"] and found["zpipe_link_depth_messages"]
    for name in (
        "dead_stored_messages",
        "resident_bytes",
        "time_ratio",
        "oldest_seconds",
        "link_oldest_seconds",
        "link_depth_bytes",
    ):
        assert found[f"zpipe_{name}"] == [], name


def test_events_are_read_from_two_of_them() -> None:
    events = Events()
    for one in said():
        events.add(one, 100.0)
    for one in said(state="FAILED"):
        events.add(one | {"dead": one["dead"] + 1}, 101.0)
    assert {event.text for event in events.recent} >= {"map.1 is FAILED", "sink.1 1 dead letter, 2 in all"}


def test_the_ledger_balances_by_what_is_required() -> None:
    ledger = RunLedger(CONFIG)
    ends = {"read": [link("map", 100)], "map": [link("sink", 100)], "sink": []}
    for stage, links in ends.items():
        ledger.final(only_required(snapshot(stage, links, received=100, state="STOPPED")))
    found = ledger.as_json(1.0)
    assert found["balanced"] and found["links"][0]["acked"] == 100


def test_the_ledger_of_a_kill_and_of_one_that_holds_something() -> None:
    ledger = RunLedger(CONFIG)
    for one in said():
        ledger.killed(one)
        ledger.final(one | {"incarnation": "i2"})
    found = ledger.as_json(1.0)
    assert not found["balanced"]
    assert "map.1 is RUNNING, holds 20 queued, 10 in process, 10 in flight to sink" in found["problems"]


def test_a_drain_and_a_run_show_who_holds_what_and_that_the_time_left_is_unknown() -> None:
    last = {(one["stage"], one["instance"]): one for one in said()}
    assert drain_text(holdings(CONFIG, last)) == (
        "read.1 RUNNING holds 50, map.1 RUNNING holds 40, sink.1 RUNNING holds 5; time left unknown"
    )
    stream = io.StringIO()
    DrainProgress(CONFIG, last, stream).turn()
    assert "time left unknown" in stream.getvalue()


def test_a_run_shows_no_share_of_a_source_that_does_not_say_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress = PlainProgress(CONFIG)
    for more in ({}, {"total": 1000}, {"total": 1000, "finished": 10}):
        for one in said():
            progress.snapshot(one | more if one["stage"] == "read" else one)
        progress._line_at = 0.0
        progress.turn()
    silent, only_total, all_of_it = capsys.readouterr().err.splitlines()
    assert silent == only_total == "event=run.progress finished=0"
    assert all_of_it.startswith("event=run.progress finished=10 total=1000 percent=1 left_s=")


def test_a_recording_of_them_is_shown(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "r", "p", 1.0)
    for at in (100.0, 101.0):
        for one in said():
            recorder.add(one, at)
    recorder.close()
    recording = Recording(tmp_path / "r", "p")
    tape = Tape(recording, CONFIG)
    tape.move(101.0)
    assert tape.value["stages"]["map"]["depth"] == 20
    assert tape.value["bottleneck"] is None
    recording.close()


@pytest.mark.parametrize("key", [*only_required(snapshot("map")), "outlet"])
def test_without_one_that_is_required_it_is_no_snapshot(key: str) -> None:
    least = only_required(snapshot("map", [link("sink")]))
    if key == "outlet":
        least["links"][0]["outlet"] = 3
    else:
        del least[key]
    assert not sound(least)


def test_one_that_lists_consumers_has_a_bound_again() -> None:
    model = PipelineModel(CONFIG)
    model.add(snapshot("map", [link("sink", 40, in_flight=28, consumers=[consumer(credit=3)])]), 100.0)
    (row,) = [row for row in model.as_json(100.0)["links"] if row["to"] == "sink"]
    assert row["credit"] == 3 and row["bound"] is not None
