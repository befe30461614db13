"""What a drain says while it waits: who holds what and why, once, and then each minute."""

from __future__ import annotations

import io

import pytest
from monitor_samples import CHAIN, config, link, snapshot

from zpipe.monitor.run.drain_progress import REPEAT_S, DrainLines, DrainProgress, drain_block, drain_text, holdings


def rows(**more: object) -> list[object]:
    last = {("map", 1): snapshot("map", [link("sink", 5, in_flight=3)], state="DRAINING", rate_out=0.0, **more)}
    return holdings(config(CHAIN), last)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            {"held_by": "the plugin: 503 of http://x"},
            "map.1 DRAINING holds 3 (is held up: the plugin: 503 of http://x)",
        ),
        ({"stopped_by": "60 of 100 died"}, "map.1 DRAINING holds 3 (takes no more: 60 of 100 died)"),
        ({"paused": True}, "map.1 DRAINING holds 3 (paused: zpipe resume)"),
        ({"retrying": 2}, "map.1 DRAINING holds 3 (2 of them are tried again)"),
    ],
)
def test_it_says_what_is_in_the_way(more: dict[str, object], text: str) -> None:
    assert drain_text(rows(**more)) == f"{text}; time left unknown"  # type: ignore[arg-type]


def test_who_is_not_there_is_waited_for_too() -> None:
    died = {"map.1": "died (killed by SIGKILL)"}
    assert drain_text([], died) == drain_text(rows(), died) == "map.1 died (killed by SIGKILL); time left unknown"  # type: ignore[arg-type]
    assert drain_text([]) == "everything has stopped"


def test_a_stage_that_holds_nothing_says_whom_it_waits_for() -> None:
    last = {("sink", 1): snapshot("sink", state="FLUSHED", rate_out=0.0, waiting_for=["map.2"])}
    assert drain_text(holdings(config(CHAIN), last)) == "sink.1 FLUSHED holds 0 (waits for map.2); about 0 s left"


def test_the_same_wait_is_said_once_and_then_each_minute() -> None:
    lines = DrainLines(5.0)
    said = [at for at in range(181) if lines.line(rows(held_by=f"503 of http://x/{at}"), {}, float(at))]  # type: ignore[arg-type]
    assert said == [0, 60, 120, 180]
    assert lines.line(rows(held_by="503"), {"work.1": "died"}, 185.0), "that is another one"  # type: ignore[arg-type]
    assert not lines.line(rows(), {}, 189.9), "but no more than a line in five seconds"  # type: ignore[arg-type]
    assert lines.line(rows(), {}, 190.0)  # type: ignore[arg-type]


def test_not_in_a_terminal_a_drain_that_waits_says_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    stream = io.StringIO()
    progress = DrainProgress(config(CHAIN), {("map", 1): snapshot("map", state="DRAINING", rate_out=0.0)}, stream)
    while now < 1000.0 + REPEAT_S - 1:
        progress.turn()
        now += 0.1
    assert stream.getvalue().count("\n") == 1


def test_a_terminal_has_a_line_for_each_instance_and_never_more_than_fit() -> None:
    last = {("map", n): snapshot("map", instance=n, state="DRAINING", rate_out=0.0) for n in range(1, 11)}
    every = drain_block(holdings(config(CHAIN), last), 80, 12)
    assert len(every) == 11 and every[9].startswith("map.10 DRAINING") and every[10] == "about 0 s left"
    cut = drain_block(holdings(config(CHAIN), last), 20, 11)
    assert len(cut) == 10 and cut[8] == "and 2 more" and max(map(len, cut)) == 20
    assert cut[0] == "map.1 DRAINING hold…"
    assert len(drain_block(holdings(config(CHAIN), last), 80, 1)) == 2
    assert drain_block([], 80, 24) == ["everything has stopped"]
