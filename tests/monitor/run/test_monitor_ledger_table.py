from __future__ import annotations

from typing import Any

from monitor_samples import CHAIN, config, link, snapshot
from rich.console import Console, RenderableType

from zpipe.monitor.model.run_ledger import RunLedger
from zpipe.monitor.run.ledger_table import ledger_table


def shown(renderable: RenderableType, width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get().rstrip("\n").split("\n")


def ledger(**map_counts: int) -> dict[str, Any]:
    made = RunLedger(config(CHAIN))
    made.final(snapshot("read", [link("map", 123_456)], received=123_456, finished=123_456, state="STOPPED"))
    made.final(snapshot("map", [link("sink", 99)], received=123_456, state="STOPPED", **map_counts))
    made.final(snapshot("sink", received=99, state="STOPPED"))
    return made.as_json(3.21)


def test_the_ledger_shows_columns_with_something_in_them() -> None:
    lines = shown(ledger_table(ledger(dead=7)))
    assert lines[0].strip() == "p: the ledger balances after 3.2 s"
    assert lines[1].split() == ["stage", "received", "completed", "dead", "produced"]
    assert lines[3].split() == ["map", "123456", "123449", "7", "99"]
    assert max(map(len, lines)) <= 80


def test_what_no_stage_reads_has_a_column() -> None:
    lines = shown(ledger_table(ledger(unrouted=12)))
    assert lines[1].split() == ["stage", "received", "completed", "produced", "unrouted"]
    assert [line.split()[-1] for line in lines[2:5]] == ["0", "12", "0"]


def test_the_verdict_stays_on_one_line_above_a_narrow_ledger() -> None:
    value = ledger() | {"seconds": 12345.6, "pipeline": "a-pipeline-with-a-long-name"}
    lines = shown(ledger_table(value))
    assert lines[0].strip() == "a-pipeline-with-a-long-name: the ledger balances after 12345.6 s"
    assert lines[1].split() == ["stage", "received", "completed", "produced"]


def test_a_ledger_that_does_not_balance_says_why() -> None:
    lines = shown(ledger_table(ledger(queued=2)))
    assert lines[0].strip() == "p: the ledger does not balance after 3.2 s"
    assert "queued" in lines[1]
    assert lines[-1].strip() == "map.1 stopped, but holds 2 queued"


def test_the_widest_ledger_fits_80_columns_with_all_its_numbers() -> None:
    value = ledger(dead=7)
    keys = next(iter(value["stages"].values()))
    value["stages"] = {f"a-stage-{n}": dict.fromkeys(keys, 1_234_567_890) for n in range(3)}
    lines = shown(ledger_table(value))
    assert max(map(len, lines)) <= 80
    assert [line.split()[0][-1] for line in lines[3:6]] == ["0", "1", "2"]
    assert all(line.split()[1:] == ["1.2G"] * len(keys) for line in lines[3:6])
    assert not any("…" in line for line in lines[:3])
