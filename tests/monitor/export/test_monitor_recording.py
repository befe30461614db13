from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from monitor_samples import CHAIN, config, link, snapshot

from zpipe.errors import OperatorError
from zpipe.monitor.export.recording import Recorder, Recording
from zpipe.monitor.export.tape import Tape
from zpipe.monitor.model.pipeline import PipelineModel

CONFIG = config(CHAIN)
BEGAN = 1_000_000.0


def record(path: Path, seconds: int = 100) -> list[float]:
    """An hour in small: `sink` falls silent at 30, `map` is restarted at 60."""
    recorder = Recorder(path, "p", 1.0)
    times = []
    for n in range(seconds):
        at = BEGAN + n
        life = "i1" if n < 60 else "i2"
        rows = {
            "read": snapshot("read", [link("map", 10 * n, unsent=n)], received=10 * n, at=at),
            "map": snapshot("map", [link("sink", 9 * n)], received=9 * n, incarnation=life, at=at),
            "sink": snapshot("sink", received=8 * n, at=at),
        }
        for name, one in rows.items():
            if name != "sink" or n < 30:
                recorder.add(one, at)
        times.append(at)
    recorder.close()
    return times


@pytest.mark.parametrize("name", ["r.ndjson", "r.ndjson.gz"])
def test_any_moment_is_as_it_was_live(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    times = record(path)
    recording = Recording(path, "p")
    assert (recording.began, recording.ended) == (times[0], times[-1])
    live = PipelineModel(CONFIG)
    expected = {}
    for at, one in recording.between(0.0, times[-1]):
        live.add(one, at)
        expected[at] = live.as_json(at)
    tape = Tape(recording, CONFIG)
    for at in (times[50], times[20], times[99], times[0], times[98], times[70], times[71], times[72]):
        tape.move(at)
        value = tape.value
        for key in ("at", "links", "bottleneck"):
            assert value[key] == expected[at][key], (at, key)
        states = [(stage["state"], stage["received"], stage["stale_s"]) for stage in value["stages"].values()]
        assert states == [(s["state"], s["received"], s["stale_s"]) for s in expected[at]["stages"].values()]
    tape.move(times[70])
    assert any("map.1 was restarted" in event.text for event in tape.events.recent)
    assert tape.value["stages"]["sink"]["stale_s"] == 41.0
    tape.move(times[-1] + 1e6)
    assert tape.at == times[-1]
    recording.close()


def test_a_torn_end_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "r"
    record(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    torn = Recording(path, "p")
    assert torn.ended == BEGAN + 2
    torn.close()
    packed = tmp_path / "r.gz"
    packed.write_bytes(gzip.compress(whole)[:-30])
    torn = Recording(packed, "p")
    assert torn.began == BEGAN
    torn.close()
    packed.write_text("plain")
    with pytest.raises(OperatorError, match="not compressed"):
        Recording(packed, "p")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no recording"),
        ("not json\n", "is no recording"),
        ("[]\n", "is no recording"),
        (json.dumps({"recording": 9, "pipeline": "p", "interval_s": 1.0}) + "\n", "version 9"),
        (json.dumps({"recording": 1, "pipeline": "other", "interval_s": 1.0}) + "\n", "pipeline 'other'"),
        (json.dumps({"recording": 1, "pipeline": "p", "interval_s": 1.0}) + "\n", "no snapshot"),
    ],
)
def test_what_is_no_recording_is_refused_in_words(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "r"
    path.write_text(text)
    with pytest.raises(OperatorError, match=said):
        Recording(path, "p")


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("-5.0", r"r:5: -5.0 is no time since 1970"),
        ("NaN", r"r:5: nan is no time since 1970"),
        ("Infinity", r"r:5: inf is no time since 1970"),
        ("1e300", r"r:5: 1e\+300 is no time since 1970"),
        ("989201.0", r"r:5: its time is 10,801 s before that of the snapshot before it"),
        ("2e9", r"r:5: its time is 23,137 days after that of the snapshot before it"),
    ],
)
def test_times_that_cannot_be_are_refused_with_their_line(tmp_path: Path, at: str, said: str) -> None:
    path = tmp_path / "r"
    recorder = Recorder(path, "p", 1.0)
    for n in range(3):
        recorder.add(snapshot("map", at=BEGAN + n), BEGAN + n - 1.0 * (n == 1))
    recorder.close()
    with path.open("a") as file:
        file.write(f'{{"at":{at},"snapshot":{json.dumps(snapshot("map"))}}}\n')
    with pytest.raises(OperatorError, match=said):
        Recording(path, "p")


def test_a_line_with_a_number_that_no_snapshot_has_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "r"
    record(path, 3)
    with path.open("a") as file:
        for key in ("at", "received", "queued_bytes"):
            file.write(json.dumps({"at": BEGAN + 3, "snapshot": snapshot("map") | {key: 10**400}}) + "\n")
        file.write(json.dumps({"at": BEGAN + 3, "snapshot": snapshot("map", note="1" * 30)}) + "\n")
    recording = Recording(path, "p")
    assert len(list(recording.between(BEGAN + 2, BEGAN + 3))) == 1
    tape = Tape(recording, CONFIG)
    tape.move(recording.ended)
    assert tape.value["stages"]["map"]["state"] == "RUNNING"
    recording.close()


@pytest.mark.parametrize("interval", ["0", "-1", "NaN", "1e300"])
def test_an_interval_that_cannot_be_is_refused(tmp_path: Path, interval: str) -> None:
    path = tmp_path / "r"
    path.write_text(f'{{"recording":1,"pipeline":"p","interval_s":{interval}}}\n')
    with pytest.raises(OperatorError, match="r:1: its interval_s is"):
        Recording(path, "p")


def test_no_file_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "r"
    Recorder(path, "p", 1.0).close()
    with pytest.raises(OperatorError, match="is there already"):
        Recorder(path, "p", 1.0)
    with pytest.raises(OperatorError, match="cannot read"):
        Recording(tmp_path / "none", "p")
    with pytest.raises(OperatorError, match="cannot write"):
        Recorder(tmp_path / "no" / "folder", "p", 1.0)
