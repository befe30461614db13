from __future__ import annotations

from typing import Any

import pytest
from monitor_samples import CHAIN, UNSENT_BOUND, budget, config, link, snapshot

from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.snapshot_feed import as_text
from zpipe.monitor.table.columns import plain
from zpipe.monitor.table.glyphs import ASCII, UNICODE, bar, sparkline, trend_arrow
from zpipe.monitor.table.pipeline_status import status


def twenty() -> PipelineModel:
    """20 stages with long names, two of them with two inputs, all numbers wide."""
    names = [f"transform-with-long-name-{n:02d}" for n in range(20)]
    stages = {name: [names[n - 1]] if n else [] for n, name in enumerate(names)}
    stages[names[10]].append(names[3])
    stages[names[15]].append(f"{names[4]}.errors")
    made = config(stages)
    model = PipelineModel(made)
    for at in (100.0, 101.0, 102.0):
        for name in names:
            rows = [link(to, int(1e9 + at * 99_900), unsent=600, outlet=outlet) for outlet, to in made.consumers(name)]
            counts = {"received": int(1e9 + at * 99_900), "dead": 99_900}
            model.add(snapshot(name, rows, at=at, rss_bytes=888 * 2**20, budget=budget(working=1.0), **counts))
    return model


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 200])
def test_twenty_stages_and_all_their_links_are_in_the_text(width: int) -> None:
    value = twenty().as_json(102.0)
    lines = [plain(line) for line in status(value, width)]
    assert max(map(len, lines)) <= width
    assert sum("run" in line.split() for line in lines) == 20
    if width >= 100:  # one table each
        depths = [line for line in lines if any(cell in ("600", "500", "1.2k") for cell in line.split())]
        assert len(depths) == len(value["links"]) == 21
    for n in range(20):
        assert any(f"-{n:02d} " in line for line in lines)


def test_without_unicode_there_are_only_plain_characters() -> None:
    assert as_text(chain(), 80, ASCII).isascii()


def test_names_are_whole_where_there_is_room() -> None:
    lines = as_text(twenty().as_json(102.0)).split("\n")
    assert any("transform-with-long-name-04.errors" in line for line in lines)
    assert not any("…" in line for line in lines)


def chain(**more: Any) -> dict[str, Any]:
    model = PipelineModel(config(CHAIN, {"map": 2}))
    rows = [link("map", 4000, unsent=UNSENT_BOUND)]
    model.add(snapshot("read", rows, received=976, finished=500, total=2000, budget=budget(blocked=0.9), rate_out=1e4))
    model.add(snapshot("map", received=976, budget=budget(working=0.97), rate_in=12_345.0, rate_out=12_345.0, **more))
    return model.as_json(100.0)


def test_the_status_says_what_is_missing_how_far_it_is_and_what_holds_it_up() -> None:
    lines = [plain(line) for line in status(chain(), 80)]
    assert lines[0] == "p  read 25% (500 of 2.0k finished)"
    assert lines[1].split()[:3] == ["STAGE", "STATE", "N"]
    assert lines[3].split()[:5] == ["*map", "run", "1/2", "12.3k", "12.3k"]
    assert "work 97%" in lines[3]
    assert "full now" in lines[3]
    assert lines[4].split()[:3] == ["sink", "absent", "0/1"]
    assert lines[5] == "map.2: not heard of"
    text = " ".join(line.strip() for line in lines[6:])
    assert text.startswith("map is the limit: 97% working, read blocked 90% of the time; ")
    assert "instances more bring about" in text and text.endswith("to keep up with read")


def test_what_no_stage_reads_is_said() -> None:
    value = chain(unrouted=1234)
    assert "map: 1,234 outputs left by an outlet that no stage reads" in [plain(line) for line in status(value, 80)]
    assert "no stage reads" not in as_text(chain())


def test_what_a_disk_has_done_to_stored_messages_is_said_once() -> None:
    rows = [link("sink", 9, unsent=5, buffer={"lost": 1200, "trouble": "cannot read x"})]
    text = "\n".join(plain(line) for line in status(chain(links=rows), 80))
    assert "map.1: 1,200 messages to sink were damaged on its disk, and are lost" in text
    assert "map.1: cannot read x" in text
    text = " ".join(plain(line).strip() for line in status(chain(links=rows, held_by="disk: cannot read x"), 80))
    assert text.count("cannot read x") == 1


def test_silent_instances_are_named_and_their_figures_are_not_shown_as_current() -> None:
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("map", [link("sink", 9, unsent=5)], at=0.0, rate_in=777.0, received=50, queued=33))
    value = model.as_json(100.0)
    lines = as_text(value).split("\n")
    assert "map.1: silent" in lines
    (row,) = [line for line in lines if line.strip().startswith("map ") and "->" not in line]
    assert "silent 2m" in row
    assert "777" not in row
    assert any("stale 2m" in line for line in lines)


def test_nothing_is_coloured_outside_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in as_text(chain())


# Glyphs


def test_bars_never_show_something_as_nothing_nor_less_than_all_as_all() -> None:
    assert bar(0.0, 4, UNICODE) == "····"
    assert bar(1e-9, 4, UNICODE) == "▏···"
    assert bar(0.999999, 4, UNICODE) == "███▉"
    assert bar(1.0, 4, UNICODE) == "████"
    assert bar(0.5, 4, ASCII) == "##.."
    assert bar(7.0, 3, ASCII) == "###"


def test_sparklines_end_with_the_latest() -> None:
    assert sparkline([0, 7, 14], 5, UNICODE) == "  ▁▅█"
    assert sparkline([1, 2, 3, 4], 2, ASCII) == "+#"
    assert sparkline([], 3, UNICODE) == "   "
    assert sparkline([0.0, 0.0], 2, ASCII) == "__"
    assert [trend_arrow(slope, ASCII) for slope in (None, 0.0, 2.0, -2.0)] == [" ", " ", "^", "v"]


@pytest.mark.parametrize(
    ("more", "state"),
    [
        ({}, "run"),
        ({"stopped_by": "60 of the last 100 messages died"}, "held"),
        ({"held_by": "the disk is full"}, "held"),
    ],
)
def test_the_state_of_a_stage_that_takes_no_more_says_so(more: dict[str, str], state: str) -> None:
    model = PipelineModel(config(CHAIN))
    for stage in CHAIN:
        model.add(snapshot(stage, **(more if stage == "map" else {})))
    rows = [plain(line).replace("*", "").split() for line in status(model.as_json(100.0), 120)]
    (cells,) = (row for row in rows if row[:1] == ["map"] and row[1] in ("run", "held"))
    assert cells[1] == state


def test_that_a_stage_is_down_is_said_once_and_that_a_part_of_it_is_too() -> None:
    model = PipelineModel(config(CHAIN, {"map": 2}))
    for instance in (1, 2):
        model.add(snapshot("map", instance=instance), 100.0)
    for at in (100.0, 120.0):
        model.add(snapshot("read", [link("map", 1000, unsent=50)], at=at), at)
        model.add(snapshot("sink", at=at), at)
    text = " ".join(plain(line) for line in status(model.as_json(120.0), 200))
    assert "map is silent" in text and "map.1, map.2: silent" not in text, text
    model.add(snapshot("map", instance=1, at=121.0), 121.0)
    assert "map.2: silent" in " ".join(plain(line) for line in status(model.as_json(121.0), 200))


def test_why_a_stage_is_held_is_said_once() -> None:
    model = PipelineModel(config(CHAIN))
    model.add(snapshot("read", [link("map", 1000)]))
    model.add(snapshot("map", queued=50, stopped_by="60 of the last 100 messages died"))
    model.add(snapshot("sink", held_by="the disk is full"))
    text = "\n".join(plain(line) for line in status(model.as_json(100.0), 120))
    assert text.count("60 of the last 100 messages died") == 1, text
    assert "sink.1 is held up: the disk is full" in text
