from __future__ import annotations

from typing import Any

import pytest
from monitor_samples import CHAIN, UNSENT_BOUND, budget, config, link, snapshot
from rich.console import Console, RenderableType

from zpipe.monitor import view
from zpipe.monitor.app import as_text
from zpipe.monitor.ledger import Ledger
from zpipe.monitor.model import Model


def shown(renderable: RenderableType, width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get().rstrip("\n").split("\n")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7.46, "7.5"),
        (950, "950"),
        (999.4, "999"),
        (999.6, "1.0k"),
        (12_345, "12.3k"),
        (99_960, "100k"),
        (4_100_000, "4.1M"),
        (999_600, "1.0M"),
        (2e13, "20T"),
    ],
)
def test_counts(number: float, text: str) -> None:
    assert view.count(number) == text
    assert len(text) <= 5


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (4_300_000, "4.1 MiB"), (32 * 2**20, "32 MiB"), (2**40, "1.0 TiB")]
)
def test_sizes(number: float, text: str) -> None:
    assert view.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.54, "0.5s"), (12, "12s"), (89, "89s"), (200, "3m"), (9000, "2h"), (1e6, "12d")]
)
def test_durations(seconds: float, text: str) -> None:
    assert view.duration(seconds) == text


def test_rates() -> None:
    assert view.rate(12_345.6) == "12.3k/s"
    assert view.rate(None) == ""


def twenty() -> Model:
    """20 stages with long names, two of them with two inputs, all numbers wide."""
    names = [f"transform-with-long-name-{n:02d}" for n in range(20)]
    stages = {name: [names[n - 1]] if n else [] for n, name in enumerate(names)}
    stages[names[10]].append(names[3])
    stages[names[15]].append(f"{names[4]}.errors")
    made = config(stages)
    model = Model(made)
    for at in (100.0, 101.0, 102.0):
        for name in names:
            rows = [link(to, int(1e9 + at * 99_900), unsent=600, outlet=outlet) for outlet, to in made.consumers(name)]
            counts = {"received": int(1e9 + at * 99_900), "dead": 99_900}
            model.add(snapshot(name, rows, at=at, rss_bytes=888 * 2**20, budget=budget(working=1.0), **counts))
    return model


def test_twenty_stages_and_all_their_links_fit_into_80x40() -> None:
    value = twenty().as_json(102.0)
    lines = shown(view.status_table(value))
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    cells = [line.split() for line in lines]
    assert sum("RUNNING" in row for row in cells) == 20
    assert sum(any(cell in ("600", "500") for cell in row) for row in cells) == len(value["links"]) == 21
    assert sum(line.startswith("tr") for line in lines) == 20
    assert all(
        f"-{n:02d} " in line for n, line in zip(range(20), [x for x in lines if x.startswith("tr")], strict=True)
    )


def test_names_are_whole_where_there_is_room() -> None:
    lines = as_text(twenty().as_json(102.0)).split("\n")
    assert any("transform-with-long-name-04.errors" in line for line in lines)
    assert not any("…" in line for line in lines)


def chain(**more: Any) -> dict[str, Any]:
    model = Model(config(CHAIN, {"map": 2}))
    rows = [link("map", 4000, unsent=UNSENT_BOUND)]
    model.add(snapshot("read", rows, received=976, finished=500, total=2000, budget=budget(blocked=0.9)))
    model.add(snapshot("map", received=976, budget=budget(working=0.97), rate_in=12_345.0, **more))
    return model.as_json(100.0)


def test_the_status_says_what_is_missing_how_far_it_is_and_what_holds_it_up() -> None:
    lines = shown(view.status_table(chain()), 200)
    assert lines[0] == "p  read 25% (500 of 2.0k finished)"
    assert lines[1].split() == [
        "STAGE",
        "STATE",
        "OUT/s",
        "WORK",
        "BLKD",
        "DEAD",
        "RSS",
        "FROM",
        "IN/s",
        "DEPTH",
        "WILL",
        "BE",
    ]
    assert lines[3].split() == [
        "map",
        "RUNNING",
        "0",
        "97%",
        "0%",
        "0",
        "32",
        "MiB",
        "read",
        "12.3k",
        "2.0k",
        "full",
        "now",
    ]
    assert lines[4].split() == ["sink", "ABSENT", "map", "0", "0"]
    assert lines[5] == "map.2: not heard of"
    assert lines[6].startswith(
        "Bottleneck: map works 97% of its time while 2,048 messages wait for it and read is blocked"
    )
    assert lines[6].endswith("2 instances would keep up.")


def test_silent_instances_are_named() -> None:
    model = Model(config(CHAIN))
    model.add(snapshot("map", at=0.0))
    lines = shown(view.status_table(model.as_json(100.0)))
    assert "map.1: silent" in lines


def test_nothing_is_coloured_outside_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in as_text(chain())


def ledger(**map_counts: int) -> dict[str, Any]:
    made = Ledger(config(CHAIN))
    made.final(snapshot("read", [link("map", 123_456)], received=123_456, finished=123_456, state="STOPPED"))
    made.final(snapshot("map", [link("sink", 99)], received=123_456, state="STOPPED", **map_counts))
    made.final(snapshot("sink", received=99, state="STOPPED"))
    return made.as_json(3.21)


def test_the_ledger_shows_columns_with_something_in_them() -> None:
    lines = shown(view.ledger_table(ledger(dead=7)))
    assert lines[0].strip() == "p: the ledger balances after 3.2 s"
    assert lines[1].split() == ["stage", "received", "completed", "dead", "produced"]
    assert lines[3].split() == ["map", "123456", "123449", "7", "99"]
    assert max(map(len, lines)) <= 80


def test_the_verdict_stays_on_one_line_above_a_narrow_ledger() -> None:
    value = ledger() | {"seconds": 12345.6, "pipeline": "a-pipeline-with-a-long-name"}
    lines = shown(view.ledger_table(value))
    assert lines[0].strip() == "a-pipeline-with-a-long-name: the ledger balances after 12345.6 s"
    assert lines[1].split() == ["stage", "received", "completed", "produced"]


def test_a_ledger_that_does_not_balance_says_why() -> None:
    lines = shown(view.ledger_table(ledger(queued=2)))
    assert lines[0].strip() == "p: the ledger does not balance after 3.2 s"
    assert "queued" in lines[1]
    assert lines[-1].strip() == "map.1 stopped, but holds 2 queued"


def test_the_widest_ledger_fits_80_columns_with_all_its_numbers() -> None:
    value = ledger(dead=7)
    keys = next(iter(value["stages"].values()))
    value["stages"] = {f"a-stage-{n}": dict.fromkeys(keys, 1_234_567_890) for n in range(3)}
    lines = shown(view.ledger_table(value))
    assert max(map(len, lines)) <= 80
    assert [line.split()[0][-1] for line in lines[3:6]] == ["0", "1", "2"]
    assert all(line.split()[1:] == ["1.2G"] * len(keys) for line in lines[3:6])
    assert not any("…" in line for line in lines[:3])
