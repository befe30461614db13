"""Records of events: what is kept plays again exactly. A record harms neither the instance that keeps it nor whoever reads it."""

from __future__ import annotations

import errno
import os
import pickle
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from zpipe.core import events
from zpipe.core.policy import StagePolicy
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.wire import section
from zpipe.core.work.task import Chunk
from zpipe.daemon.event_record import FORMAT, EventRecord, RecordedStage, open_file
from zpipe.testing import Faults, Simulation, Spec, node
from zpipe.testing.event_replay import main, replay


def head(record: EventRecord) -> RecordedStage:
    return RecordedStage(
        record,
        *(Identity("p", "a", 1, "a1"), [], [("", "b")], StagePolicy(), 0.0),
        random_bytes=os.urandom,
        jitter=lambda: 0.5,
        process_figures=dict,
    )


def never(error: Exception) -> None:
    raise error


def yielded(position: Any) -> events.SourceYielded:
    body = section.encode([str(position)], [0.0], [None], None)
    return events.SourceYielded([Chunk("", 1, body)], position, 1, [])


def fails(id: str, attempt: int) -> list[str]:
    if id.endswith("3"):
        raise ValueError("no")
    return [id]


@pytest.mark.parametrize("seed", range(3))
def test_instances_of_a_network_with_faults_play_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    made: list[EventRecord] = []

    def stage(*fixed: Any, **named: Any) -> RecordedStage:
        made.append(EventRecord(open_file(tmp_path / str(len(made))), never))
        return RecordedStage(made[-1], *fixed, **named)

    monkeypatch.setattr(node, "Stage", stage)
    specs = [
        Spec("a", messages=400, bad=lambda id: id.endswith("7")),
        Spec("b", (("a", ""),), instances=2, plan=fails),
        Spec("c", (("b", ""),)),
    ]
    sim = Simulation(specs, seed, Faults(delay_s=0.01))
    sim.clock.later(0.05, lambda: sim.kill(("b", 1)))
    sim.clock.later(0.06, partial(sim.boot_later, ("b", 1), 0.1))
    assert sim.run() and len(made) == 5
    for record in made:
        record.close()
    for path in sorted(tmp_path.iterdir()):
        steps = list(replay(path))
        assert steps and not [step for step in steps if step.differs]


def test_the_first_answer_that_differs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "record"
    record = EventRecord(open_file(path), never)
    stage = head(record)
    stage.handle(events.Opened(), 1.0)
    stage.inlet.dead_by_link["x", ""] = 1  # which no event has caused
    stage.snapshot(2.0)
    record.close()
    assert main(str(path)) == 1
    assert "call 2, snapshot at 2.0" in capsys.readouterr().out


def test_a_value_of_a_plugin_s_own_type_is_kept_as_its_text(tmp_path: Path) -> None:
    record = EventRecord(open_file(tmp_path / "record"), never)
    stage = head(record)
    stage.handle(yielded(Decimal(7)), 0.0)
    record.close()
    [step] = replay(tmp_path / "record")
    assert isinstance(step.event, events.SourceYielded) and step.event.position == "Decimal('7')"


def test_the_record_of_the_life_before_is_kept(tmp_path: Path) -> None:
    for name in ("first", "second"):
        record = EventRecord(open_file(tmp_path / "record"), never)
        head(record).handle(yielded(name), 0.0)
        record.close()
    for path, name in (("record.old", "first"), ("record", "second")):
        [step] = replay(tmp_path / path)
        assert isinstance(step.event, events.SourceYielded) and step.event.position == name


def test_a_record_that_cannot_go_on_leaves_the_instance_at_work() -> None:
    reasons: list[Exception] = []
    record = EventRecord(os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb"), reasons.append)
    stage = head(record)
    for number in range(1000):
        stage.handle(yielded(number), 0.0)
        stage.turn(0.0)
    [reason] = reasons
    assert isinstance(reason, OSError) and reason.errno == errno.ENOSPC
    assert stage.counts.received == 1000
    record.close()


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


@pytest.mark.parametrize("what", [Evil(), partial(os.getpid), os.environ.__class__])
def test_a_record_makes_nothing_but_values(tmp_path: Path, what: Any) -> None:
    path = tmp_path / "record"
    path.write_bytes(pickle.dumps(FORMAT) + pickle.dumps(("made", 0.0, what)))
    with pytest.raises(ValueError, match="which no record may hold"):
        list(replay(path))


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps("zpipe events 0")])
def test_another_file_is_no_record(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "record").write_bytes(content)
    with pytest.raises(ValueError, match="no record of events"):
        list(replay(tmp_path / "record"))
