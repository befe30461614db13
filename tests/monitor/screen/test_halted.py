"""A stage that runs and takes no work: one rule says whether it is held or paused, and every view goes by it."""

from __future__ import annotations

import pytest
from monitor_samples import CHAIN, config, link, snapshot

from zpipe.monitor.model.events import Events
from zpipe.monitor.model.history import History
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.run.drain_progress import holdings
from zpipe.monitor.screen.app import VIEWS
from zpipe.monitor.screen.pane import Choice, Pane, Shown, View
from zpipe.monitor.snapshot_feed import as_text
from zpipe.monitor.table.columns import plain
from zpipe.monitor.table.glyphs import UNICODE

BREAKER = "60 of the last 100 messages died"
CASES = [
    ([{}], None),
    ([{"paused": True}], "paused"),
    ([{"held_by": "the disk is full"}], "held"),
    ([{"stopped_by": BREAKER}], "held"),
    ([{"paused": True, "held_by": "the disk is full"}], "held"),
    ([{"paused": True, "stopped_by": BREAKER}], "held"),
    ([{"held_by": "the disk is full"}, {}], None),
    ([{"stopped_by": BREAKER}, {}], None),
    ([{"paused": True}, {}], None),
    ([{"paused": True}, {"stopped_by": BREAKER}], "held"),
    ([{"paused": True}, {"paused": True}], "paused"),
]


def model_of(instances: list[dict[str, object]]) -> PipelineModel:
    model = PipelineModel(config(CHAIN, {"map": len(instances)}), 0.0)
    model.add(snapshot("read", [link("map", 1000, unsent=40)]), 100.0)
    for number, more in enumerate(instances, 1):
        model.add(snapshot("map", instance=number, incarnation=f"i{number}", queued=10, received=10, **more), 100.0)
    model.add(snapshot("sink"), 100.0)
    return model


def shown_of(model: PipelineModel, instances: int) -> Shown:
    value, history = model.as_json(100.0), History()
    history.add(value)
    made = config(CHAIN, {"map": instances})
    return Shown(value, history, Events().recent, "12:00:30", made, glyphs=UNICODE)


def lines_of(view: View) -> list[str]:
    panes: list[Pane | None] = [view.main, view.side, view.below]
    return [plain(line) for pane in panes if pane is not None for line in (*pane.head, *pane.lines)]


@pytest.mark.parametrize(("instances", "halted"), CASES)
def test_every_view_says_the_same_of_a_stage_that_takes_no_work(
    instances: list[dict[str, object]], halted: str | None
) -> None:
    model = model_of(instances)
    value = model.as_json(100.0)
    assert value["stages"]["map"]["halted"] == halted
    verdict = value["bottleneck"] or {"kind": None}
    assert (verdict["kind"] if verdict["kind"] in ("held", "paused") else None) == halted
    (row,) = (
        cells
        for line in as_text(value, 120).replace("*", "").splitlines()
        if (cells := line.split())[:1] == ["map"] and cells[1] in ("run", "held", "paused")
    )
    assert row[1] == (halted or "run")
    shown = shown_of(model, len(instances))
    for number in (1, 2):
        words = " ".join(lines_of(VIEWS[number](shown, Choice(number), 120, 34))).split()
        assert [word for word in ("held", "paused") if word in words] == ([halted] if halted else []), number


def test_an_instance_in_the_view_of_its_stage_has_its_own_word() -> None:
    both = {"paused": True, "held_by": "the disk is full"}
    shown = shown_of(model_of([both, {"paused": True}, {}]), 3)
    lines = lines_of(VIEWS[3](shown, Choice(3, stage="map"), 140, 34))
    words = {
        name: next(line for line in lines if line.strip().startswith(name)).split()
        for name in ("map.1", "map.2", "map.3")
    }
    assert ("held" in words["map.1"], "paused" in words["map.2"], "running" in words["map.3"]) == (True, True, True)


def test_a_drain_names_what_holds_an_instance_before_its_pause() -> None:
    last = {("map", 1): snapshot("map", [link("sink", 5, in_flight=3)], paused=True, held_by="the disk is full")}
    (row, *_) = holdings(config(CHAIN), last)
    assert row.why == "is held up: the disk is full"
